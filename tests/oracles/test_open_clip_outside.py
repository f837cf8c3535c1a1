"""open_clip's own vision tower, in and out. Not among the tests' dependencies.

To run this, install it without dependencies into a folder on PYTHONPATH:
`pip install --no-deps --target DIR open_clip_torch ftfy wcwidth`.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import parity
from tests.oracles.test_linen_outside import outside
from tests.parity.format_oracles import BOUND, assert_same_bits, gap_of_ours, images, randomised
from tests.twin_models import relative_gap

pytestmark = pytest.mark.filterwarnings("ignore")  # the package is old
CASES = {
    "gelu": {},
    "quick_gelu_layer_scale": {"quick_gelu": True, "ls_init_value": 0.1},
    "epsilon": {"norm_kwargs": {"eps": 1e-3}},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_open_clip(changes, tmp_path):
    package = outside("open_clip.model", "open_clip_torch")
    tower = {
        "image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8,
        "mlp_ratio": 1.5,
    } | {k: v for k, v in changes.items() if k != "quick_gelu"}  # fmt: skip
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
    model = {"embed_dim": 24, "quick_gelu": changes.get("quick_gelu", False)}

    def clip():
        return package.CLIP(**model, vision_cfg=tower, text_cfg=text).double().eval()

    oracle, x = randomised(clip()), images()
    with torch.no_grad():
        expected = oracle.encode_image(x)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    visual = {n: p for n, p in oracle.state_dict().items() if n.startswith("visual.")}
    save_file(oracle.state_dict(), theirs / "open_clip_model.safetensors")
    config = {"model_cfg": model | {"vision_cfg": tower, "text_cfg": text}}
    (theirs / "open_clip_config.json").write_text(json.dumps(config))

    ours = parity.convert(theirs, tmp_path / "ours")
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back", target="open_clip")
    content = json.loads((back / "open_clip_config.json").read_text())["model_cfg"]
    tower = content.pop("vision_cfg")
    loaded = package.CLIP(**content, vision_cfg=tower, text_cfg=text).double().eval()
    state = load_file(back / "open_clip_model.safetensors")
    loaded.visual.load_state_dict({n.removeprefix("visual."): a for n, a in state.items()})
    with torch.no_grad():
        assert relative_gap(loaded.encode_image(x), expected) < BOUND
    save_file(visual, tmp_path / "visual.safetensors")
    assert_same_bits(tmp_path / "visual.safetensors", back)
