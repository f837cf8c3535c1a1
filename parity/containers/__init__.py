"""Tensor files of every kind that Vision Transformers are published in, read lazily and safely.

No framework is imported, but torch for pickles. Sizes that a file declares are checked against the
file before memory is taken, and whatever is wrong with a file raises `BrokenFile`.
"""

from parity.containers.files import BrokenFile
from parity.containers.info import Info
from parity.containers.opening import Container, opened
from parity.containers.shard_writing import write_shards
from parity.containers.writing import KINDS, write

__all__ = ["KINDS", "BrokenFile", "Container", "Info", "opened", "write", "write_shards"]
