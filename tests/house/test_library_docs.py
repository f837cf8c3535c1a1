"""The code in docs/library.md runs, from top to bottom."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()


def test_the_code_on_the_page_runs(tmp_path, monkeypatch, capsys, quickly_compiled):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 36), (200, 30, 30)).save("photo.jpg")
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    names = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    label, gap = capsys.readouterr().out.split()
    assert label in names["header"].labels and float(gap) < 1e-5
    assert names["tokens"].shape == names["middle"].shape == (2, 17, 192)
    assert names["embedding"].shape == (2, 192) and names["seen"].shape == (2, 4, 4)
    assert np.isfinite(names["loss"]) and np.isfinite(names["metrics"]["loss"])
    assert names["vit_torch"].load("tiny3").config.num_classes == 3
