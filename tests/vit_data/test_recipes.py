"""What the recipes say of themselves."""

import re

import pytest

from vit_data.recipes import RECIPES
from vit_spec.flops import PEAKS, train_flops


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_reference_cost_and_result_and_the_cost_is_what_it_computes(name):
    text, recipe = " ".join((RECIPES[name].__doc__ or "").split()), RECIPES[name]()
    assert re.search("Reference: .* Cost: .* Result: .*", text)
    said = re.search(r"Cost: ([\d.]+) chip-hours of TPU v5e at 40 % MFU", text)
    if said is None:
        assert "on two CPU cores" in text and "measured" in text
        return
    operations, start = 0, 0
    sizes = [(step, (side, side)) for step, side in recipe.sizes_by_step]
    for step, size in [*sizes, (recipe.optim.total_steps, None)]:
        operations += (step - start) * recipe.batch_size * train_flops(recipe.model, size)
        start = step
    hours = operations / (0.4 * PEAKS["TPU v5e"]) / 3600
    assert float(said[1]) == pytest.approx(hours, rel=0.01)
