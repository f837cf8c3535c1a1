"""Models that hold more than parameters, which nothing here saves or averages yet.

Twin: `vit_jax.functional.split` and `vit_jax.api.get_state` refuse the same.
"""

from torch import nn


def check_no_buffers(model: nn.Module, what: str) -> None:
    """Raises `ValueError` if a model's state is more than parameters, which is all `what` has."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    others = [name for name in model.state_dict() if name not in parameters]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise ValueError(
            f"{what} has parameters only, and the model holds {', '.join(others[:5])}{more} as "
            "well: models with such state are not supported"
        )
