"""Measurements side by side, each one command. Not part of the package."""
