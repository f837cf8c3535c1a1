"""`compare` and `diagnose`: two functions compared, two models explained."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parity.check import DTYPES, check_pair
from parity.diagnosis.diagnose import explain_pair
from parity.findings import Diagnosis
from parity.pair import AnyPair, Pick, make_pair
from parity.precision import exact
from parity.report import LEVELS, Report
from vit_spec.names import unknown_name


def compare(
    jax_fn: Callable[..., Any],
    torch_fn: Callable[..., Any],
    inputs: Any,
    *,
    dtype: str | Iterable[str] = "float64",
    image_outputs: bool = False,
    jax_kwargs: Mapping[str, Any] | None = None,
    torch_kwargs: Mapping[str, Any] | None = None,
    jax_output: Pick | None = None,
    torch_output: Pick | None = None,
    depth: int = 1,
    seed: int = 0,
    explain: bool = True,
) -> Report:
    """Compares two functions on the same inputs: outputs, and gradients of the inputs.

    Args:
        jax_fn, torch_fn: functions of arrays of their framework that return arrays, or any
            structure of them.
        inputs: NumPy arrays: a tuple for positional arguments, a dict for keywords;
            `parity.Image(array)` marks images (b, H, W, c) that PyTorch takes as (b, c, H, W).
        dtype: one or several, as in `parity.check`; arrays inside the functions are theirs.
        image_outputs: outputs of rank 4 are images, too.
        jax_kwargs, torch_kwargs: keywords that only one of them takes; arrays in NumPy.
        jax_output, torch_output: where they return other structures, functions that pick what is
            compared, such as `lambda output: output[0]`.
        depth: layers one after another, for the tolerance.
        seed: of the random gradient of the outputs.
        explain: where they differ, look for the cause.
    """
    dtypes = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    unknown = [unknown_name("dtype", d, DTYPES) for d in dtypes if d not in DTYPES]
    if unknown:
        raise ValueError("; ".join(unknown))
    with exact():
        pair = AnyPair(
            jax_fn,
            torch_fn,
            inputs,
            image_outputs=image_outputs,
            jax_kwargs=jax_kwargs,
            torch_kwargs=torch_kwargs,
            jax_output=jax_output,
            torch_output=torch_output,
            depth=depth,
            seed=seed,
        )
        return check_pair(pair, level="gradients", dtypes=dtypes, explain=explain)


def diagnose(
    model: Any, twin: Any = None, *, level: str = "training", steps: int = 20, **arguments: Any
) -> Diagnosis:
    """Where two models differ and why; arguments as in `parity.check`.

    Works in float64, where nothing hides in rounding. Needs no failed check: equal models have
    neither location nor causes.
    """
    if level not in LEVELS:
        raise ValueError(unknown_name("level", level, LEVELS))
    if "inputs" in arguments:
        arguments["given"] = arguments.pop("inputs")
    with exact():
        return explain_pair(make_pair(model, twin, **arguments), level=level, steps=steps)
