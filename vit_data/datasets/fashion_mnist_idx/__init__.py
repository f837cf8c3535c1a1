"""Fashion-MNIST from idx files: the TFDS data set `fashion_mnist_idx`."""

from vit_data.datasets.fashion_mnist_idx.fashion_mnist_idx_dataset_builder import Builder

__all__ = ["Builder"]
