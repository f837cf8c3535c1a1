"""Handwritten digits, 8x8: the TFDS data set `digits`."""

from vit_data.datasets.digits.digits_dataset_builder import Builder, held_out

__all__ = ["Builder", "held_out"]
