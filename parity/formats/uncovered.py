"""Models of transformers and timm that are none of ours, as their config.json says."""

import re

from parity.formats.format import Given
from parity.formats.timm_names import PLAIN
from vit_spec.strict_json import shown

COVERED = "vit, deit, dinov2, dinov2_with_registers, clip, siglip, vit_mae"
REASONS = {  # of a `model_type` of transformers, or of the start of a name of timm
    r"dinov3.*": "its blocks turn queries and keys by rotary positions",
    r"swin.*": "its attention is within shifted windows",
    r"(beit|data2vec).*": "its attention has relative position biases",
    r"siglip2.*": "it takes patches of any aspect ratio; files of a fixed size say `siglip`",
    r"i_?jepa": "it returns tokens that nothing pools",
    r"(convnext|resnet|bit|regnet|efficientnet|mobilenet).*": "it is a convolutional network",
}


def reason(given: Given) -> str | None:
    """What to say of a checkpoint whose config.json names another model, if it does."""
    config = given.config or {}
    kind, architecture = config.get("model_type"), config.get("architecture")
    if kind is not None and kind not in COVERED.split(", "):
        return _text("transformers", kind, f"model_type {COVERED}")
    if architecture is not None and not re.match(PLAIN, str(architecture)):
        return _text("timm", architecture, "its plain ViTs: vit_*, deit_*, deit3_*, flexivit_*")
    return None


def _text(library: str, name: object, covered: str) -> str:
    why = [text for pattern, text in REASONS.items() if re.fullmatch(pattern, str(name))]
    because = f" ({why[0]})" if why else ""
    return (
        f"is {shown(name)} of {library}, as its config.json says, which is not covered{because}; "
        f"of {library} are covered: {covered}"
    )
