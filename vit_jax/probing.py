"""How good frozen features are: nearest neighbours, and a linear layer on top.

Shapes: n training images, m test images, d features, k classes.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vit_jax.functional import merge, split
from vit_jax.vit import ViT

CHUNK = 1024


def extract(
    model: ViT, batches: Iterable[Mapping[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the head is given (n, d), float32, and the labels (n,) of batches with a `mask`.

    Of a model with a distillation token, the class token.
    """
    structure, params = split(model)

    @jax.jit
    def apply(params: dict[str, Array], images: Array) -> Array:
        ours = merge(structure, params)
        pooled = ours.pool(ours.features(images))
        return (pooled[:, 0] if pooled.ndim == 3 else pooled).astype(jnp.float32)

    features, labels = [], []
    for batch in batches:
        kept = batch["mask"] > 0
        features.append(np.asarray(apply(params, batch["image"]))[kept])
        labels.append(batch["label"][kept])
    return np.concatenate(features), np.concatenate(labels)


def nearest_classes(
    features: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Classes (m,) by a vote of the `k` nearest training images, as DINO evaluates (`eval_knn.py`).

    Neighbours are those of the highest cosine; each votes with exp(cosine / temperature).
    Raises `ValueError` for more neighbours than there are images.
    """
    if not 1 <= k <= len(features):
        raise ValueError(f"k {k} must be from 1 to the {len(features)} training images")
    known, classes = _unit(features), int(labels.max()) + 1

    @jax.jit
    def vote(known: Array, labels: Array, some: Array) -> Array:
        cosines, places = jax.lax.top_k(jnp.dot(some, known.T, precision="highest"), k)
        votes = jnp.exp(cosines / temperature)[..., None] * jax.nn.one_hot(labels[places], classes)
        return votes.sum(1).argmax(-1)

    parts = [test[i : i + CHUNK] for i in range(0, len(test), CHUNK)]
    return np.concatenate([np.asarray(vote(known, labels, _unit(part))) for part in parts])


def fit_linear(
    features: np.ndarray, labels: np.ndarray, *, c: float = 0.316, steps: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (d, k) and bias (k,) of the logistic regression on frozen features.

    L-BFGS on all images at once, with `c` as in scikit-learn: c * sum of the cross-entropies + half
    the squared norm of the kernel. The defaults are those of CLIP's linear probe
    (https://arxiv.org/abs/2103.00020, A.3). Ends early where the gradient is gone.
    """
    x, y = jnp.asarray(features), jnp.asarray(labels)
    count, classes = len(features), int(labels.max()) + 1
    params = (jnp.zeros((x.shape[1], classes), x.dtype), jnp.zeros(classes, x.dtype))
    optimizer = optax.lbfgs()

    def cost(params: tuple[Array, Array]) -> Array:
        kernel, bias = params
        logits = jnp.dot(x, kernel, precision="highest") + bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean() + (kernel**2).sum() / (2 * c * count)

    value_and_grad = optax.value_and_grad_from_state(cost)

    @jax.jit
    def update(params: tuple[Array, Array], state: optax.OptState) -> tuple:
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=cost
        )
        return optax.apply_updates(params, updates), state, optax.tree.norm(grad)

    state, small = optimizer.init(params), float(jnp.finfo(x.dtype).eps) ** 0.75
    for _ in range(steps):
        params, state, size = update(params, state)
        if float(size) < small:
            break
    return np.asarray(params[0]), np.asarray(params[1])


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)
