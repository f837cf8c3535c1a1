"""What a timm architecture's name says and its tensors do not.

Source: the entry points of `timm/models/vision_transformer.py` and `deit.py`, timm 1.0.31.
"""

import re
from typing import Any

from parity.formats.format import Unsaid
from vit_spec.strict_json import shown
from vit_spec.variants import SIZES

HEADS = {width: heads for _, width, _, heads, _ in SIZES.values()}  # else 64 channels each
OWN_HEADS = {"vit_base_patch16_gap_224": 16, "test_vit": 2, "test_vit2": 2}
DINOV2_GIANT = 24  # heads of width 1536
GELU_TANH = (
    r"vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip_.*"
    r"|vit_large_patch16_siglip_(gap_)?512"
)
PLAIN = r"(vit|deit|deit3|flexivit|test_vit)_?"  # how names of plain ViTs begin
OTHER = (  # another function under the same or similar names
    r"aimv2.*|beit3.*|.*_xp_.*|.*radio.*|.*_rpn_.*|.*18x2.*|vit_d?p?wee_.*|vit_dlittle_.*"
    r"|vit_intern.*|test_vit[34]|.*_prr.*"
)


def facts(name: str, width: int) -> dict[str, Any]:
    """`num_heads`, `norm_eps` and `activation` of an architecture.

    Raises `Unsaid` for an architecture whose function is not that of a plain ViT.
    """
    if not re.match(PLAIN, name) or re.fullmatch(OTHER, name):
        raise Unsaid(
            f"timm's {shown(name)} is not a plain ViT as this package has it, or not known to be: "
            "if it is, give a config of ours by model='config.json'"
        )
    heads = OWN_HEADS.get(name) or (
        DINOV2_GIANT if "giant" in name and width == 1536 and "siglip" not in name else None
    )
    activation = "quick_gelu" if "quickgelu" in name else "gelu"
    return {
        "num_heads": heads or HEADS.get(width) or max(1, width // 64),
        "norm_eps": 1e-5 if "_clip_" in name else 1e-6,
        "activation": "gelu_tanh" if re.fullmatch(GELU_TANH, name) else activation,
    }
