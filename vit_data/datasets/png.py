"""Pixels to the bytes of a PNG file, in the form that TFDS stores without TensorFlow."""

import io

import numpy as np
from PIL import Image


def encode_png(image: np.ndarray) -> io.BytesIO:
    """The PNG file of uint8 `(h, w)` or `(h, w, 3)`, as an open file at its start.

    TFDS stores what it reads from a file as it is; an array it would encode with TensorFlow.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    file.seek(0)
    return file
