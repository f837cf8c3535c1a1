"""Formats of others: a table each, read both ways. NumPy alone is imported.

`FOREIGN` holds them by name; `parity.foreign` converts with them.
"""

from parity.formats import (
    augreg,
    big_vision,
    hf_clip,
    hf_deit,
    hf_dinov2,
    hf_flax_vit,
    hf_siglip,
    hf_vit,
    hf_vitmae,
    open_clip,
    releases,
    timm,
    torchvision,
)
from parity.formats.format import Format, Given
from parity.formats.table import Rule

FOREIGN: dict[str, Format] = {
    form.name: form
    for form in (
        timm.FORMAT,
        hf_vit.FORMAT,
        hf_deit.FORMAT,
        hf_dinov2.FORMAT,
        hf_dinov2.WITH_REGISTERS,
        hf_clip.FORMAT,
        hf_siglip.FORMAT,
        hf_vitmae.FORMAT,
        augreg.FORMAT,
        big_vision.FORMAT,
        big_vision.SCANNED,
        hf_flax_vit.FORMAT,
        torchvision.FORMAT,
        open_clip.FORMAT,
        *releases.ALL,
    )
}

__all__ = ["FOREIGN", "Format", "Given", "Rule"]
