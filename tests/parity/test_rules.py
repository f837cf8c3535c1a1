"""Tables of rules: what they match, what they do to names and arrays, and what is refused."""

import numpy as np
import pytest

import parity
from parity import Rule

RNG = np.random.default_rng(0)


def shapes(state):
    return {name: array.shape for name, array in state.items()}


def there_and_back(state, rules):
    """A JAX state of these shapes in PyTorch's names, after a round trip that changes nothing."""
    state = {name: RNG.normal(size=shape) for name, shape in state.items()}
    names = parity.Names(rules)
    carried = names.to_torch(state)
    again = names.to_jax(carried, {name: array.ndim for name, array in state.items()})
    for name, array in again.items():
        np.testing.assert_array_equal(array, state[name])
    assert again.keys() == state.keys()
    return state, carried


BLOCKS = {"blocks.0.norm.scale": (6,), "blocks.0.fc.kernel": (6, 4), "blocks.11.fc.kernel": (6, 4)}


def test_a_rule_between_modules_covers_all_below():
    _, carried = there_and_back(BLOCKS, [Rule("blocks", "encoder.layers")])
    assert shapes(carried) == {
        "encoder.layers.0.norm.weight": (6,),
        "encoder.layers.0.fc.weight": (4, 6),
        "encoder.layers.11.fc.weight": (4, 6),
    }


@pytest.mark.parametrize("order", [1, -1], ids=["general_first", "special_first"])
def test_the_rule_that_fits_the_longest_part_counts_whatever_the_order(order):
    rules = [Rule("blocks", "layers"), Rule("blocks.{i}.norm", "layers.{i}.ln_1")]
    _, carried = there_and_back(BLOCKS, rules[::order])
    assert list(carried) == [
        "layers.0.ln_1.weight", "layers.0.fc.weight", "layers.11.fc.weight"
    ]  # fmt: skip


def test_a_prefix_of_either_side_is_taken_off():
    assert list(there_and_back({"fc.kernel": (6, 4)}, [Rule("", "model")])[1]) == [
        "model.fc.weight"
    ]
    assert list(there_and_back({"net.fc.kernel": (6, 4)}, [Rule("net", "")])[1]) == ["fc.weight"]


def test_layers_that_jax_stacks_are_modules_of_their_own_in_pytorch():
    stack = {"layers.norm.scale": (3, 6), "layers.fc.kernel": (3, 6, 4), "head.bias": (4,)}
    state, carried = there_and_back(stack, [Rule("layers", "blocks.{i}", parity.stacked(3))])
    assert set(carried) == {
        *(f"blocks.{i}.{n}.weight" for i in range(3) for n in ("norm", "fc")), "head.bias"
    }  # fmt: skip
    for i in range(3):
        np.testing.assert_array_equal(
            carried[f"blocks.{i}.fc.weight"], state["layers.fc.kernel"][i].T
        )
        np.testing.assert_array_equal(
            carried[f"blocks.{i}.norm.weight"], state["layers.norm.scale"][i]
        )


def test_stacked_layers_take_any_operation_of_a_layer_and_any_axis():
    rules = [
        Rule(
            ("stack.query.kernel", "stack.key.kernel"),
            "layers.{i}.qk.weight",
            parity.stacked(3, parity.fused(parity.heads(2), 2), axis=1),
        )
    ]
    state, carried = there_and_back(
        {"stack.query.kernel": (6, 3, 2, 5), "stack.key.kernel": (6, 3, 2, 5)}, rules
    )
    second = [state[f"stack.{n}.kernel"][:, 1].reshape(6, 10).T for n in ("query", "key")]
    np.testing.assert_array_equal(carried["layers.1.qk.weight"], np.concatenate(second))


def test_another_number_of_stacked_layers_is_refused():
    names = parity.Names([Rule("layers", "blocks.{i}", parity.stacked(2))])
    with pytest.raises(ValueError, match=r"axis 0 of \(3, 6\) is not 2 layers"):
        names.to_torch({"layers.bias": np.zeros((3, 6))})
    with pytest.raises(ValueError, match="one placeholder that JAX's has not"):
        parity.Names([Rule("layers", "blocks", parity.stacked(2))])


def test_dense_general_joins_any_axes():
    features = Rule("qkv", "attn.qkv", parity.dense_general(features=(3, 2, -1)))
    state, carried = there_and_back({"qkv.kernel": (8, 3, 2, 4), "qkv.bias": (3, 2, 4)}, [features])
    np.testing.assert_array_equal(carried["attn.qkv.weight"], state["qkv.kernel"].reshape(8, 24).T)
    np.testing.assert_array_equal(carried["attn.qkv.bias"], state["qkv.bias"].ravel())
    both = parity.dense_general(inputs=(2, 4), features=(3, 5))
    _, carried = there_and_back({"out.kernel": (2, 4, 3, 5)}, [Rule("out", "proj", both)])
    assert shapes(carried) == {"proj.weight": (15, 8)}


def test_a_fused_layer_is_split_and_separate_ones_are_fused_with_their_biases():
    three = ("attn.query", "attn.key", "attn.value")
    fused = {"attn.qkv.kernel": (8, 24), "attn.qkv.bias": (24,)}
    state, carried = there_and_back(fused, [Rule("attn.qkv", three, parity.split())])
    np.testing.assert_array_equal(carried["attn.key.weight"], state["attn.qkv.kernel"][:, 8:16].T)
    np.testing.assert_array_equal(carried["attn.value.bias"], state["attn.qkv.bias"][16:])
    apart = {
        f"{n}.{leaf}": shape for n in three for leaf, shape in (("kernel", (8, 4)), ("bias", (4,)))
    }
    _, carried = there_and_back(apart, [Rule(three, "attn.qkv", parity.fused())])
    assert shapes(carried) == {"attn.qkv.weight": (12, 8), "attn.qkv.bias": (12,)}


def test_an_own_operation():
    op = parity.Op(lambda a: (a[0].T[:, None],), lambda a: (a[0][:, 0].T,))
    _, carried = there_and_back({"proj.kernel": (6, 4)}, [Rule("proj.kernel", "conv.weight", op)])
    assert shapes(carried) == {"conv.weight": (4, 1, 6)}


def test_two_rules_cannot_share_half_a_group():
    rules = [
        Rule(("a.kernel", "b.kernel"), "ab.weight", parity.fused(count=2)),
        Rule("b.kernel", "b.weight"),
    ]
    state = {"a.kernel": np.zeros((3, 3)), "b.kernel": np.zeros((3, 3))}
    assert set(parity.Names(rules).to_torch(state)) == {"ab.weight"}  # the first of equals
    with pytest.raises(ValueError, match="another rule takes b.kernel"):
        parity.Names(rules[::-1]).to_torch(state)
