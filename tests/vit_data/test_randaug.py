"""Both RandAugments and 3-Augment against what defines them: timm's operations, TensorFlow's."""

import random
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.oracles import timm_models  # noqa: F401  (makes timm importable)
from vit_data import randaug_big_vision, randaug_timm
from vit_data.color import jittered, three_augment
from vit_data.decode import pixels, to_picture
from vit_data.policies import policy_of
from vit_data.randaug_timm import Look, TimmRandAugment

FILL = (124, 116, 104)
LOOK = Look(FILL, Image.Resampling.BICUBIC)
LEVELS = (0.0, 3.0, 9.0, 10.0)

# CRC-32 of what `big_vision/pp/archive/autoaugment.py` (0127fb6) makes of `photo` in TensorFlow
# 2.21, at the levels 0, 3, 10, 15, 20 and, for movements, of both signs, one after the other.
BIG_VISION = {
    "AutoContrast": 0x351FED23,
    "Equalize": 0x268B617F,
    "Invert": 0x8569613F,
    "Rotate": 0xFAC351BA,
    "Posterize": 0x45B4ABE5,
    "Solarize": 0x6FE68D9C,
    "Color": 0x3F8EFCBA,
    "Contrast": 0x4D8F2C79,
    "Brightness": 0x456EBCC7,
    "Sharpness": 0xA5FF7500,
    "ShearX": 0x547495EC,
    "ShearY": 0x75BD8E40,
    "TranslateX": 0x8C04FB36,
    "TranslateY": 0xCAC4F664,
    "SolarizeAdd": 0x8A33D618,
}


def photo() -> np.ndarray:
    """61 x 83 pixels with edges, ramps and texture, the same everywhere."""
    y, x = np.mgrid[0:61, 0:83]
    channels = [(7 * x + 13 * y + x * y // 5) % 256, 40 + (3 * x + y) % 170]
    return np.stack([*channels, (x * x // 9 + 2 * y) % 200], -1).astype(np.uint8)


class Drawn(np.random.Generator):
    """A generator whose `random` returns what it is given."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = list(values)

    def random(self, *_, **__):
        return self.values.pop(0)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("name", sorted({*randaug_timm.PLAIN, *randaug_timm.INCREASING}))
def test_an_operation_of_timm_is_pixel_equal_to_timms(name, negative, monkeypatch):
    from timm.data.auto_augment import AugmentOp

    picture = to_picture(photo())
    monkeypatch.setattr(random, "random", lambda: 0.9 if negative else 0.1)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    blank = {"Posterize": (0.0,), "PosterizeIncreasing": (10.0,)}.get(name, ())  # see below
    for level in set(LEVELS) - set(blank):
        theirs = AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)(picture)
        value = randaug_timm.argument(name, level, Drawn(0.1 if negative else 0.9))
        ours = randaug_timm.apply(name, picture, value, LOOK)
        np.testing.assert_array_equal(pixels(ours), np.asarray(theirs), err_msg=f"level {level}")


def test_posterize_without_bits_is_black_where_pillow_refuses():
    value = randaug_timm.argument("PosterizeIncreasing", 10.0, Drawn())
    black = randaug_timm.apply("PosterizeIncreasing", to_picture(photo()), value, LOOK)
    assert value == 0 and not pixels(black).any() and black.mode == "RGB"


def test_timms_spec_is_read_as_timm_reads_it():
    from timm.data.auto_augment import rand_augment_transform

    spec = "rand-m9-n3-p0.7-mstd0.5-mmax12-inc1"
    ours, theirs = TimmRandAugment.parse(spec), rand_augment_transform(spec, {"img_mean": FILL})
    assert tuple(op.name for op in theirs.ops) == randaug_timm.INCREASING
    assert theirs.num_layers == ours.layers
    op = theirs.ops[0]
    expected = (op.prob, op.magnitude, op.magnitude_std, op.magnitude_max)
    found = (ours.probability, ours.magnitude, ours.deviation, ours.max_magnitude)
    assert found == expected
    plain = rand_augment_transform("rand-m5", {"img_mean": FILL})
    assert tuple(op.name for op in plain.ops) == randaug_timm.PLAIN
    assert TimmRandAugment.parse("rand-m5").deviation == 0


def test_timms_magnitude_has_its_noise_and_bounds():
    levels = [
        TimmRandAugment.parse("rand-m9-mstd0.5").level(np.random.default_rng(i))
        for i in range(2000)
    ]
    assert max(levels) == 10.0
    assert abs(np.median(levels) - 9) < 0.05 and 0.4 < np.std(levels) < 0.5
    uniform = TimmRandAugment.parse("rand-m8-mstd101")
    spread = [uniform.level(np.random.default_rng(i)) for i in range(500)]
    assert min(spread) < 0.2 and 7.8 < max(spread) <= 8


@pytest.mark.parametrize("name", BIG_VISION)
def test_an_operation_of_big_vision_is_pixel_equal_to_tensorflows(name):
    crc = 0
    for level in (0.0, 3.0, 10.0, 15.0, 20.0):
        for sign in (1, -1) if name in randaug_big_vision.SIGNED else (1,):
            image = randaug_big_vision.OPERATIONS[name](photo(), sign * level)
            crc = zlib.crc32(np.ascontiguousarray(image).tobytes(), crc)
    assert crc == BIG_VISION[name]


def test_big_visions_cutout_is_a_grey_square_cut_at_the_border():
    image = randaug_big_vision.apply("Cutout", photo(), 1.0, Drawn(0.0, 0.5))
    changed = (image != photo()).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (0, 3, 37, 44)
    assert (image[:4, 37:45] == 128).all()


def test_big_vision_draws_its_sixteen_operations_equally():
    assert len(randaug_big_vision.NAMES) == len(set(randaug_big_vision.NAMES)) == 16
    assert set(BIG_VISION) | {"Cutout"} == set(randaug_big_vision.NAMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "randaug(2,10)", "3-augment"])
def test_a_policy_follows_its_generator_alone_and_keeps_the_shape(policy, channels):
    run, image = policy_of(policy), np.ascontiguousarray(photo()[..., :channels])
    assert run is not None
    look = Look(FILL[:channels], Image.Resampling.BILINEAR)
    results = [run(image, np.random.default_rng(i), look) for i in (*range(30), 0)]
    np.testing.assert_array_equal(results[0], results[-1])
    assert {(r.shape, r.dtype.name) for r in results} == {(image.shape, "uint8")}
    assert len({r.tobytes() for r in results}) > 5


@pytest.mark.parametrize(
    ("draw", "name", "level"), [(0.0, "Desaturate", 10), (0.4, "Solarize", 5), (0.9, "Blur", 10)]
)
def test_three_augment_is_pixel_equal_to_timms(draw, name, level, monkeypatch):
    from timm.data.auto_augment import AugmentOp

    name = {"Blur": "GaussianBlurRand"}.get(name, name)
    monkeypatch.setattr(random, "uniform", lambda low, high: low + 0.3 * (high - low))
    theirs = AugmentOp(name, prob=1.0, magnitude=level, hparams={})(to_picture(photo()))
    ours = three_augment(photo(), Drawn(draw, 0.3))
    np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("which", range(4), ids=["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("amount", [-0.4, 0.0, 0.25])
def test_colour_jitter_is_pixel_equal_to_torchvisions(which, amount):
    from torchvision.transforms import functional

    picture = to_picture(photo())
    names = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
    theirs = getattr(functional, names[which])(picture, amount + (which < 3))
    np.testing.assert_array_equal(pixels(jittered(picture, which, amount)), np.asarray(theirs))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("autoaugment", "rand-m9-mstd0.5-inc1 .*randaug.2,10. .*3-augment"),
        ("rand-m9-x3", "x3"),
        ("randaug(2,30)", "from 0 to 20"),
    ],
)
def test_an_unknown_policy_is_refused_with_the_known_ones(policy, message):
    with pytest.raises(ValueError, match=message):
        policy_of(policy)
