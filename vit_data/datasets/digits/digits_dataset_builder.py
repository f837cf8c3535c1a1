"""TFDS builder of scikit-learn's handwritten digits, with a test split that never changes.

Imports tensorflow_datasets, hence is imported lazily; needs no TensorFlow.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vit_data.datasets.png import encode_png

TEST_EXAMPLES = 360


class Builder(tfds.core.GeneratorBasedBuilder):
    """1,797 grey images of 8x8 pixels in ten classes: 1,437 to train on and 360 held out.

    The values 0..16 of the source are stored as `(255 * v + 8) // 16`, which spans 0..255 and
    loses nothing: `v == round(16 * stored / 255)`. Examples keep the order of the source.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release; the held-out split is fixed by SHA-256."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels, from scikit-learn's load_digits.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation="E. Alpaydin and C. Kaynak, 1998. Optical Recognition of Handwritten Digits.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        images = ((values.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8)
        is_test = held_out(labels)
        return {
            "train": self._generate_examples(images[~is_test], labels[~is_test]),
            "test": self._generate_examples(images[is_test], labels[is_test]),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": encode_png(image), "label": int(label)}


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which of the digits are the test split: bool `(n,)` for `labels` `(n,)` in source order.

    Stratified: every class gives its share of the 360 (largest remainders first), and gives those
    whose `sha256("digits-<position>")` is smallest.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(counts * TEST_EXAMPLES, len(labels))
    missing = TEST_EXAMPLES - int(quota.sum())
    quota[np.argsort(-remainder, kind="stable")[:missing]] += 1
    rank = [hashlib.sha256(f"digits-{i}".encode()).hexdigest() for i in range(len(labels))]
    chosen = np.zeros(len(labels), bool)
    for label, count in zip(classes, quota, strict=True):
        members = sorted(np.flatnonzero(labels == label), key=rank.__getitem__)
        chosen[members[:count]] = True
    return chosen
