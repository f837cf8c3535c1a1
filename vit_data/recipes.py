"""Recipes with a name. A new one is a function here, or in `imagenet_recipes.py`.

Each one's docstring, which `--help` shows, states reference, cost and result: what we measured,
with the machine.
"""

from collections.abc import Callable

from vit_data.augment import Augmentation
from vit_data.imagenet_recipes import IMAGENET
from vit_data.recipe import Recipe
from vit_spec import OptimConfig, Preprocessing, ViTConfig, get

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def digits() -> Recipe:
    """scikit-learn's handwritten digits: 1,437 training and 360 test images of 8 x 8 pixels.

    Needs no download and no accelerator.

    Reference: `sklearn.datasets.load_digits`, the test set of UCI's Optical Recognition of
    Handwritten Digits; the recipe is ours.
    Cost: half a minute of training on two CPU cores, measured.
    Result: 98.6 to 99.2 % of the test images, measured; it varies with the processor.
    """
    return Recipe(
        model=ViTConfig(
            image_size=8,
            patch_size=4,
            in_channels=1,
            num_classes=10,
            width=64,
            depth=4,
            num_heads=4,
            mlp_width=128,
            class_token=False,
            pool="mean",
            fc_norm=True,
        ),
        optim=OptimConfig(
            lr=3e-3,
            warmup_steps=100,
            total_steps=2000,
            weight_decay=0.05,
            label_smoothing=0.1,
            ema_decay=0.99,
        ),
        preprocessing=Preprocessing(crop_fraction=1.0),
        augmentation=Augmentation(shift=1),
        batch_size=128,
        eval_every=500,
    )


def fashion_mnist() -> Recipe:
    """Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels.

    Reads the idx files of Debian's `dataset-fashion-mnist` or a prepared TFDS set. Sized for 40
    minutes on two cores: make it longer on an accelerator.

    Reference: https://arxiv.org/abs/1708.07747 for the images; the recipe is ours.
    Cost: 48 minutes on two CPU cores for 14 epochs, measured with other programs beside it; 64
    minutes of processor time in all.
    Result: 92.5 % of the test images, measured.
    """
    return Recipe(
        data="fashion_mnist",
        model=ViTConfig(
            image_size=28,
            patch_size=4,
            in_channels=1,
            num_classes=10,
            width=128,
            depth=6,
            num_heads=4,
            mlp_width=256,
            class_token=False,
            pool="mean",
            fc_norm=True,
        ),
        optim=OptimConfig(
            optimizer="muon",
            momentum=0.95,
            lr=6e-3,
            warmup_steps=200,
            total_steps=6600,
            weight_decay=0.05,
            label_smoothing=0.1,
            ema_decay=0.998,
        ),
        preprocessing=Preprocessing(crop_fraction=1.0),
        augmentation=Augmentation(flip=0.5, shift=1),
        batch_size=128,
        eval_every=1650,
    )


def folder() -> Recipe:
    """Your own images, one subfolder per class: ViT-Ti/16 at 224 pixels, from nothing.

    `python train.py path/to/folder`. A starting point for some thousand images; look at the test
    accuracy in `metrics.jsonl` and change what you like.

    Reference: none; the model is DeiT-Ti (https://arxiv.org/abs/2012.12877).
    Cost: 0.0042 chip-hours of TPU v5e at 40 % MFU, so reading the images decides.
    Result: as your images are.
    """
    return Recipe(
        data=".",
        model=get("Ti/16", drop_path=0.1),
        optim=OptimConfig(
            lr=5e-4, warmup_steps=200, total_steps=5000, weight_decay=0.05, label_smoothing=0.1
        ),
        augmentation=Augmentation(flip=0.5, crop_scale=(0.2, 1.0)),
        batch_size=32,
        eval_batch_size=32,
        eval_every=500,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (digits, fashion_mnist, folder, *IMAGENET)
}
