"""Images of published variants, and names of architectures: against timm's own."""

import pytest
import torch

from parity.formats.timm import ABSENT, config_to
from tests.oracles.timm_models import create_model, get_pretrained_cfg
from vit_spec import Header, get, parameters, variants
from vit_spec.published import published_preprocessing


@pytest.mark.parametrize("name", variants())
def test_a_variant_prepares_images_as_timms_model_of_that_name(name):
    theirs, ours = get_pretrained_cfg(name), published_preprocessing(name)
    if name in ABSENT:  # timm has no such model: its defaults for any
        theirs = get_pretrained_cfg("vit_small_patch16_224")
    else:
        assert theirs.input_size == (3, *get(name).image_shape)
    assert (ours.mean, ours.std, ours.interpolation) == (
        theirs.mean, theirs.std, theirs.interpolation,
    )  # fmt: skip
    assert (ours.crop_fraction, ours.squash) == (theirs.crop_pct, theirs.crop_mode == "squash")


@pytest.mark.parametrize("name", variants())
def test_what_is_written_for_timm_names_the_architecture(name):
    config = get(name)
    header = Header(config=config, preprocessing=published_preprocessing(name))
    content = config_to(header)["config.json"]
    if name not in ABSENT and not name.endswith(".mae"):
        assert content["architecture"] == name
    if config.depth > 12:  # the rest is the name's business
        return
    with torch.device("meta"):
        model = create_model(content["architecture"], **content["model_args"], weight_init="skip")
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == parameters(config)
