"""TFDS builder of Fashion-MNIST from idx files on disk, such as Debian's dataset-fashion-mnist.

Imports tensorflow_datasets, hence is imported lazily; needs no TensorFlow and no network.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vit_data.datasets.png import encode_png
from vit_data.idx import read_pair

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Grey images of 28x28 pixels in ten classes; examples keep the order of the files.

    `folder` holds the four idx files, gzipped or not. It is needed for preparing alone.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def __init__(self, *, folder: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        self._folder = folder
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Zalando's article images, read from idx files.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=LABELS),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation="H. Xiao, K. Rasul, R. Vollgraf, 2017. Fashion-MNIST. arXiv:1708.07747",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        if self._folder is None:
            raise ValueError("folder is None: give the folder of the idx files to prepare from")
        return {
            "train": self._generate_examples(Path(self._folder), "train"),
            "test": self._generate_examples(Path(self._folder), "t10k"),
        }

    def _generate_examples(self, folder: Path, prefix: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = read_pair(folder, prefix)
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": encode_png(image), "label": int(label)}
