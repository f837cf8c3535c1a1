"""What stands on all the packages: the command `vitwin` and the parts of the training program."""

from vit_spec.version import __version__

__all__ = ["__version__"]
