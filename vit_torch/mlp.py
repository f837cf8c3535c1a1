"""The second branch of a block. Twin: `vit_jax/mlp.py`.

Shapes: b images, t tokens, d width, m MLP width.
Where a layer takes `masks`, it is a dict of multipliers by site (see `vit_spec.masks`).
"""

from torch import Tensor, nn

from vit_spec import ViTConfig
from vit_torch.layers import Masks, activate, drop


class Mlp(nn.Module):
    """Two linear layers with the config's activation between them."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.activation = config.activation
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:  # (b, t, d) -> (b, t, d)
        x = drop(activate(self.fc1(x), self.activation), masks, "mlp_drop1")  # (b, t, m)
        return drop(self.fc2(x), masks, "mlp_drop2")


class SwiGLUPacked(nn.Module):
    """An MLP whose first layer makes gate and values at once, the gate in front
    (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.activation = config.activation
        self.fc1 = nn.Linear(config.width, 2 * config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:  # (b, t, d) -> (b, t, d)
        gate, x = self.fc1(x).chunk(2, dim=-1)  # each (b, t, m)
        x = drop(activate(gate, self.activation) * x, masks, "mlp_drop1")
        return drop(self.fc2(x), masks, "mlp_drop2")


class SwiGLU(nn.Module):
    """An MLP with one layer for the gate and one for the values."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.activation = config.activation
        self.fc1_g = nn.Linear(config.width, config.mlp_width)
        self.fc1_x = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:  # (b, t, d) -> (b, t, d)
        x = activate(self.fc1_g(x), self.activation) * self.fc1_x(x)  # (b, t, m)
        return drop(self.fc2(drop(x, masks, "mlp_drop1")), masks, "mlp_drop2")


MLPS: dict[str, type[Mlp | SwiGLUPacked | SwiGLU]] = {
    "mlp": Mlp,
    "swiglu_packed": SwiGLUPacked,
    "swiglu": SwiGLU,
}
"""By `ViTConfig.mlp`."""
