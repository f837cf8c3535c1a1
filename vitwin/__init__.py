"""What stands on all the packages: the command `vitwin` and the parts of the training program."""

__version__ = "0.1.0"

__all__ = ["__version__"]
