"""The version of this project, for all its packages."""

__version__ = "0.2.0"
