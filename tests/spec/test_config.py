"""`ViTConfig`, the table of variants, and what their errors say."""

import pytest

import vit_spec
from vit_spec import ViTConfig, count_parameters, get, variants

# Published where a figure exists (ViT, DeiT and Scaling ViTs papers; timm's results table); all
# equal
# timm's count of the same sizes (tests/oracles).
COUNTS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_tiny_patch16_384": 5_790_376,
    "vit_small_patch8_224": 22_055_272,
    "vit_small_patch14_224": 22_004_584,
    "vit_small_patch16_224": 22_050_664,
    "vit_small_patch16_384": 22_196_584,
    "vit_small_patch32_224": 22_878_952,
    "vit_small_patch32_384": 22_915_432,
    "vit_medium_patch16_224": 38_837_736,
    "vit_medium_patch32_224": 39_942_120,
    "vit_base_patch8_224": 86_576_872,
    "vit_base_patch14_224": 86_475_496,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_base_patch32_224": 88_224_232,
    "vit_base_patch32_384": 88_297_192,
    "vit_large_patch14_224": 304_203_752,
    "vit_large_patch16_224": 304_326_632,
    "vit_large_patch16_384": 304_715_752,
    "vit_large_patch32_224": 306_535_400,
    "vit_large_patch32_384": 306_632_680,
    "vit_so400m_patch14_224": 413_597_656,
    "vit_so400m_patch16_224": 413_735_896,
    "vit_huge_patch14_224": 632_045_800,
    "vit_huge_patch16_224": 632_199_400,
    "vit_giant_patch14_224": 1_012_611_432,
    "vit_gigantic_patch14_224": 1_844_440_680,
    "vit_base_patch16_224.mae": 85_798_656,
    "vit_large_patch16_224.mae": 303_301_632,
    "vit_huge_patch14_224.mae": 630_764_800,
    "deit_tiny_patch16_224": 5_717_416,
    "deit_small_patch16_224": 22_050_664,
    "deit_base_patch16_224": 86_567_656,
    "deit_base_patch16_384": 86_859_496,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "deit_base_distilled_patch16_384": 87_630_032,
    "deit3_small_patch16_224": 22_059_496,
    "deit3_small_patch16_384": 22_205_416,
    "deit3_medium_patch16_224": 38_849_512,
    "deit3_base_patch16_224": 86_585_320,
    "deit3_base_patch16_384": 86_877_160,
    "deit3_large_patch16_224": 304_374_760,
    "deit3_large_patch16_384": 304_763_880,
    "deit3_huge_patch14_224": 632_126_440,
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_large_patch14_dinov2": 304_367_616,
    "vit_giant_patch14_dinov2": 1_136_479_232,
    "vit_small_patch14_reg4_dinov2": 22_057_344,
    "vit_base_patch14_reg4_dinov2": 86_582_016,
    "vit_large_patch14_reg4_dinov2": 304_370_688,
    "vit_giant_patch14_reg4_dinov2": 1_136_483_840,
    "vit_base_patch16_siglip_224": 92_884_224,
    "vit_base_patch16_siglip_256": 92_930_304,
    "vit_base_patch16_siglip_384": 93_176_064,
    "vit_base_patch16_siglip_512": 93_520_128,
    "vit_large_patch16_siglip_256": 315_956_224,
    "vit_large_patch16_siglip_384": 316_283_904,
    "vit_so400m_patch14_siglip_224": 427_680_704,
    "vit_so400m_patch14_siglip_378": 428_225_600,
    "vit_base_patch32_siglip_256": 94_552_320,
    "vit_large_patch16_siglip_512": 316_742_656,
    "vit_so400m_patch16_siglip_256": 427_888_064,
    "vit_so400m_patch16_siglip_384": 428_256_704,
    "vit_so400m_patch16_siglip_512": 428_772_800,
    "vit_giantopt_patch16_siglip_256": 1_163_168_256,
    "vit_giantopt_patch16_siglip_384": 1_163_659_776,
    "vit_base_patch16_siglip_gap_224": 85_797_120,
    "vit_base_patch16_siglip_gap_256": 85_843_200,
    "vit_base_patch16_siglip_gap_384": 86_088_960,
    "vit_base_patch16_siglip_gap_512": 86_433_024,
    "vit_large_patch16_siglip_gap_256": 303_361_024,
    "vit_large_patch16_siglip_gap_384": 303_688_704,
    "vit_so400m_patch14_siglip_gap_224": 412_442_352,
    "vit_so400m_patch14_siglip_gap_378": 412_987_248,
    "vit_so400m_patch14_siglip_gap_448": 413_327_088,
    "vit_so400m_patch14_siglip_gap_896": 416_866_032,
    "vit_base_patch32_siglip_gap_256": 87_465_216,
    "vit_large_patch16_siglip_gap_512": 304_147_456,
    "vit_so400m_patch16_siglip_gap_256": 412_649_712,
    "vit_so400m_patch16_siglip_gap_384": 413_018_352,
    "vit_so400m_patch16_siglip_gap_512": 413_534_448,
    "vit_giantopt_patch16_siglip_gap_256": 1_134_838_272,
    "vit_giantopt_patch16_siglip_gap_384": 1_135_329_792,
    "vit_base_patch32_clip_224": 88_225_000,
    "vit_base_patch32_clip_384": 88_297_960,
    "vit_base_patch32_clip_448": 88_337_896,
    "vit_base_patch16_clip_224": 86_568_424,
    "vit_base_patch16_clip_384": 86_860_264,
    "vit_large_patch14_clip_224": 304_204_776,
    "vit_large_patch14_clip_336": 304_532_456,
    "vit_huge_patch14_clip_224": 632_047_080,
    "vit_huge_patch14_clip_336": 632_456_680,
    "vit_base_patch32_clip_quickgelu_224": 87_849_728,
    "vit_base_patch16_clip_quickgelu_224": 86_193_152,
    "vit_large_patch14_clip_quickgelu_224": 303_966_976,
    "vit_large_patch14_clip_quickgelu_336": 304_294_656,
}


def test_every_variant_has_a_pinned_count():
    assert set(variants()) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_variant_has_its_pinned_count(name):
    assert count_parameters(get(name)) == COUNTS[name]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Ti/16", "vit_tiny_patch16_224"),
        ("B/16", "vit_base_patch16_224"),
        ("B/16@224", "vit_base_patch16_224"),
        ("B/16@384", "vit_base_patch16_384"),
        ("So400m/14", "vit_so400m_patch14_224"),
        ("g/14", "vit_giant_patch14_224"),
        ("G/14", "vit_gigantic_patch14_224"),
    ],
)
def test_an_alias_stands_for_a_variant(alias, name):
    assert vit_spec.full_name(alias) == name
    assert get(alias) == get(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 225}, "image_size 225 is not a multiple of patch_size 16: use 224 or 240"),
        ({"image_size": (224,)}, r"image_size \(224,\) must be a positive whole number or a pair"),
        ({"num_heads": 7}, "width 768 is not a multiple of num_heads 7"),
        ({"num_head": 3}, "unknown config field 'num_head': did you mean num_heads"),
        ({"pool": "avg"}, "pool 'avg' is none of 'token', 'mean', 'map'"),
        ({"class_token": False}, "pool 'token' needs class_token=True"),
        ({"drop_path": 1.0}, "drop_path 1.0 is outside"),
        ({"depth": 0}, "depth 0 must be a whole number of at least 1"),
        ({"norm_eps": 0.0}, "norm_eps 0.0 is outside"),
        ({"distillation_token": True, "pool": "mean"}, "distillation_token needs pool='token'"),
        ({"distillation_token": True, "num_registers": 4}, "distillation_token .* num_registers=0"),
        ({"mlp": "swiglu"}, "mlp 'swiglu' needs activation 'silu', not 'gelu'"),
        ({"mlp": "swiglu", "activation": "silu", "pool": "map"}, "pool 'map' .* mlp 'swiglu'"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_the_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        get("B/16", **changes)


def test_all_problems_come_in_one_message():
    with pytest.raises(
        ValueError, match="image_size 225.*width 768 is not a multiple of num_heads 7"
    ):
        get("B/16", image_size=225, num_heads=7)


def test_an_unknown_variant_lists_the_near_ones():
    with pytest.raises(
        ValueError, match="unknown variant 'vit_bas_patch16_224': did you mean vit_base_patch16_224"
    ):
        get("vit_bas_patch16_224")


def test_a_config_survives_json():
    import json

    config = ViTConfig(image_size=(32, 48), patch_size=(8, 4), layer_scale=0.1)
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
