"""Floating-point operations of a model, and how many a second devices can do at most.

A multiplication and the addition that follows it count as two. Only matrix products count, as in
https://arxiv.org/abs/2204.02311, appendix B: the rest is a few per cent.
"""

from vit_spec.config import ViTConfig

PEAKS = {
    # Google's, of a chip: https://cloud.google.com/tpu/docs/v3, .../v4, .../v5e, .../v5p, .../v6e
    "TPU v3": 61.5e12,  # a device is one of the chip's two cores
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # v6e
    "TPU v6e": 918e12,
    # NVIDIA's, without sparsity: half of what most of the pages named here say. Compared through
    # those who quote them, such as pytorch/torchtitan's `torchtitan/tools/utils.py`.
    "NVIDIA A100": 312e12,  # https://www.nvidia.com/en-us/data-center/a100/
    "NVIDIA H100 PCIe": 756e12,  # https://www.nvidia.com/en-us/data-center/h100/
    "NVIDIA H100 NVL": 835e12,  # likewise
    "NVIDIA H100": 989e12,  # likewise, SXM: "NVIDIA H100 80GB HBM3"
    "NVIDIA H200 NVL": 835e12,  # https://www.nvidia.com/en-us/data-center/h200/
    "NVIDIA H200": 989e12,  # likewise
    "NVIDIA L4": 121e12,  # https://www.nvidia.com/en-us/data-center/l4/
    "NVIDIA L40S": 362e12,  # https://www.nvidia.com/en-us/data-center/l40s/
}
"""bfloat16 operations a second of one JAX device, by `device_kind`, which may be longer."""


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 operations a second of one device at most; None where the table lacks it."""
    words = device_kind.replace("-", " ").split()
    names = [n for n in PEAKS if words[: len(n.split())] == n.split()]
    return PEAKS[max(names, key=len)] if names else None


def forward_flops(config: ViTConfig, size: tuple[int, int] | None = None) -> int:
    """Of one image, (height, width) in pixels, through the model; None: its native size."""
    return sum(_parts(config, size))


def train_flops(config: ViTConfig, size: tuple[int, int] | None = None) -> int:
    """Of one image in a training step: the backward pass is two products for each one forward.

    The patch embedding has one, as images need no gradient. What remat computes again is not
    counted: it is not the model's work.
    """
    patches, rest = _parts(config, size)
    return 2 * patches + 3 * rest


def _parts(c: ViTConfig, size: tuple[int, int] | None) -> tuple[int, int]:
    """Of the patch embedding, and of all that follows."""
    rows, columns = c.grid_of(*(size or c.image_shape))
    n, d, m = rows * columns, c.width, c.mlp_width
    t = n + c.num_prefix_tokens
    layers = 2 if c.mlp == "mlp" else 3
    # qkv and proj; queries by keys and weights by values; the MLP's layers
    block = 2 * t * d * 4 * d + 2 * 2 * t * t * d + 2 * t * d * m * layers
    patches = 2 * n * c.patch_shape[0] * c.patch_shape[1] * c.in_channels * d
    rest = c.depth * block
    if c.pool == "map":  # kv of the patches; the query by keys and weights by values; proj and MLP
        rest += 2 * n * d * 2 * d + 2 * 2 * n * d + 2 * d * d + 2 * d * m * 2
    rest += 2 * d * (c.representation_size or 0)
    return patches, rest + 2 * c.feature_width * c.num_classes * (1 + c.distillation_token)
