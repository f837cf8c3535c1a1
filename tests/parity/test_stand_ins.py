"""What training keeps beside its weights is passed over, whatever its class, and nothing runs."""

import argparse
import collections
import datetime
import decimal
import enum
import pathlib

import numpy as np
import pytest
import torch

from parity import containers
from parity.containers.rehearsal import MOST_UNKNOWN, is_pytorchs
from tests.parity.hostile_files import archive, refused


class Colour(enum.Enum):
    """A class that the reader does not know."""

    RED = 1


class Settings(dict):
    """Another one, with attributes, as libraries of settings have."""


def settings():
    found = Settings(lr=0.1, weight=torch.ones(1))
    found.frozen = True
    return found


BESIDE = {
    "best": np.float64(0.5),
    "seeds": np.arange(3),
    "state": np.random.default_rng(0).bit_generator.state,
    "legacy": np.random.RandomState(0).get_state(),
    "raw": b"\x00\xff",
    "buffer": bytearray(b"ab"),
    "day": datetime.datetime(2026, 1, 1),
    "took": datetime.timedelta(1),
    "path": pathlib.PurePosixPath("/a"),
    "price": decimal.Decimal("1.5"),
    "args": argparse.Namespace(lr=0.1, colour=Colour.RED),
    "losses": collections.deque([1.0, 2.0], maxlen=4),
    "counts": collections.Counter("aab"),
    "meters": collections.defaultdict(list, {"loss": [1.0]}),
    "version": torch.__version__,
    "wave": 1 + 2j,
    "names": frozenset({"a"}),
    ("a", 1): 3,
}


@pytest.mark.parametrize("zipped", [True, False])
def test_values_of_any_class_beside_the_weights_are_passed_over(tmp_path, zipped):
    saved = {**BESIDE, "settings": settings(), "model": {"w": torch.ones(2)}}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with containers.opened(tmp_path / "a.pth") as opened:
        assert opened.read("model.w").tolist() == [1, 1]
        assert opened.tensors.keys() == {"model.w", "settings.weight"}
        assert opened.beside["raw"] == b"\x00\xff"
        assert opened.beside["args.lr"] == 0.1
        assert opened.beside["losses"] == [1.0, 2.0]
        assert opened.beside["day"].class_name == "datetime.datetime"
        assert opened.beside["('a', 1)"] == 3


def test_no_class_is_made_but_its_name_is_known(tmp_path, monkeypatch):
    def made(*_):
        raise AssertionError("it was called")

    torch.save({"w": torch.ones(1), "colour": Colour.RED}, tmp_path / "a.pth")
    monkeypatch.setattr(Colour, "_missing_", made)
    monkeypatch.delattr("tests.parity.test_stand_ins.Colour")
    with containers.opened(tmp_path / "a.pth") as opened:
        assert opened.beside["colour"].class_name.endswith("test_stand_ins.Colour")


def test_no_name_that_pytorch_calls_itself_is_stood_in_for():
    from torch._weights_only_unpickler import _get_allowed_globals

    assert [name for name in _get_allowed_globals() if not is_pytorchs(name)] == []


def test_a_whole_module_is_refused_with_the_line_to_run(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "a.pth")
    line = r"torch\.save\(torch\.load\('.*a\.pth', weights_only=False\)\.state_dict"
    with (
        pytest.raises(containers.BrokenFile, match=rf"module as a whole.*{line}"),
        containers.opened(tmp_path / "a.pth"),
    ):
        pass


def test_a_file_of_very_many_classes_is_refused(tmp_path):
    pickled = b"".join(b"cnowhere\nC%d\n)R0" % i for i in range(MOST_UNKNOWN + 1))
    data = b"\x80\x02" + pickled + b"}."
    files = {"data.pkl": data, "version": b"3\n", "byteorder": b"little"}
    (tmp_path / "a.pth").write_bytes(archive(*((f"archive/{n}", d) for n, d in files.items())))
    refused(tmp_path / "a.pth", f"nowhere.C{MOST_UNKNOWN}.*could run code or take all memory")
