"""The checks, measured: every known bug is planted in a healthy pair, one at a time."""
