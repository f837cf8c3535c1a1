"""What folders and files call their training, validation and test parts. No twin."""

import re

SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
"""Split -> the names that it goes by, in any case, the usual one first."""

FALLBACKS = {
    "train": ("train",),
    "validation": ("validation", "test"),
    "test": ("test", "validation"),
}
"""Which part is read for a split: the first that is there."""

_WORDS = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_FILLERS = {
    "",
    "set",
    "sets",
    "data",
    "dataset",
    "split",
    "folder",
    "image",
    "images",
    "img",
    "imgs",
}


def split_of(name: str) -> str | None:
    """The split that a folder is by its name, such as `Valid`, `train2017` or `test_images`."""
    splits, others = _read(name)
    return splits.pop() if len(splits) == 1 and not others else None


def split_words(name: str) -> set[str]:
    """The splits whose words stand in a name; `seg_train` and `bullet_train` have one too."""
    return _read(name)[0]


def _read(name: str) -> tuple[set[str], set[str]]:
    """The splits that the words of a name stand for, and its words that say something else."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    splits, others = set(), set()
    for word in map(str.lower, words):
        stem = next((w for w in _WORDS if word.startswith(w) and word[len(w) :] in _FILLERS), None)
        if stem is not None:
            splits.add(_WORDS[stem])
        elif word not in _FILLERS:
            others.add(word)
    return splits, others
