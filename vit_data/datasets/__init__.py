"""TFDS builders of our own: each writes one data set once, as array_record files of PNG images."""
