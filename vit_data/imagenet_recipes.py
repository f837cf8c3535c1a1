"""Published recipes for ImageNet-1k, with what is known about them. See `recipes.py`.

`imagenet2012` must be prepared for TFDS by hand; `--data FOLDER` takes a folder with train and val.
Results are those of the authors, in top-1 accuracy on the validation split; none is measured by us.
A step of 1,024 images is 1/1,251 of an epoch. Costs are computed: `vit_spec.flops.train_flops` of
all images seen, by 40 % of the 197 Tflop/s of a TPU v5e chip (a test computes them again).
"""

import dataclasses

from vit_data.augment import Augmentation
from vit_data.recipe import Recipe
from vit_spec import OptimConfig, Preprocessing, get

IMAGES = 1_281_167
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision, timm and DeiT
BIG_VISION = Preprocessing(interpolation="bilinear", crop_fraction=0.875)  # in [-1, 1]
DEIT = Preprocessing(mean=MEAN, std=STD, crop_fraction=0.875)
DEIT3 = Preprocessing(mean=MEAN, std=STD, crop_fraction=1.0)
INCEPTION, TF_CROP = (0.08, 1.0), (0.05, 1.0)  # share of the area: timm's default, big_vision's
TIMM_RANDAUGMENT = "rand-m9-mstd0.5-inc1"


def article() -> Recipe:
    """ViT-B/16 on ImageNet with the numbers of the article that this project began with.

    Learning rate 3e-4, weight decay 0.05, 10,000 warmup and 100,000 steps of 512 images. Made for
    TPUs or several GPUs.

    Reference: none that can be cited; model of https://arxiv.org/abs/2010.11929.
    Cost: 19 chip-hours of TPU v5e at 40 % MFU.
    Result: none is known.
    """
    return Recipe(
        model=get("B/16"),
        optim=OptimConfig(lr=3e-4, warmup_steps=10_000, total_steps=100_000, weight_decay=0.05),
        augmentation=Augmentation(flip=0.5, crop_scale=TF_CROP),
        **_imagenet(512),
    )


def article_progressive() -> Recipe:
    """`article` with growing images: 128 pixels for half of the steps, 176 up to 80 %, then 224.

    Reference: progressive learning of EfficientNetV2 (https://arxiv.org/abs/2104.00298, section 4);
    the sizes are ours.
    Cost: 10.3 chip-hours of TPU v5e at 40 % MFU, 0.54 of `article`, and three compilations.
    Result: none is known.
    """
    return dataclasses.replace(article(), image_sizes=((0.5, 128), (0.8, 176)))


def imagenet_s16_90ep() -> Recipe:
    """ViT-S/16, 90 epochs: Better plain ViT baselines.

    The authors' weight decay of 1e-4 is not multiplied by the peak learning rate 1e-3, so it is 0.1
    in AdamW's terms. They keep the first moment in bfloat16, which this does not.

    Reference: https://arxiv.org/abs/2205.01580; big_vision's `configs/vit_s16_i1k.py`.
    Cost: 11.1 chip-hours of TPU v5e at 40 % MFU; the authors: 6 to 7 hours on a TPU v3-8.
    Result: 76.5 %, the authors' on 99 % of the images.
    """
    return Recipe(
        model=get("S/16", pool="mean", class_token=False, pos_embed="sincos2d"),
        optim=OptimConfig(
            lr=1e-3, warmup_steps=10_000, total_steps=_steps(90, 1024), weight_decay=0.1
        ),
        preprocessing=BIG_VISION,
        augmentation=Augmentation(flip=0.5, crop_scale=TF_CROP, policy="randaug(2,10)", mixup=0.2),
        **_imagenet(1024),
    )


def imagenet_b16_300ep() -> Recipe:
    """ViT-B/16, 300 epochs: How to train your ViT? (AugReg), augmentation `medium2`.

    big_vision trains with sigmoid cross-entropy from a head bias of -6.9, where this takes softmax
    cross-entropy. Its weight decay of 1e-4 is 0.1 in AdamW's terms.

    Reference: https://arxiv.org/abs/2106.10270; big_vision's `configs/vit_i1k.py`.
    Cost: 142 chip-hours of TPU v5e at 40 % MFU.
    Result: the authors' by regularisation and augmentation are in figure 4 of the paper.
    """
    return Recipe(
        model=get("B/16", representation_size=768),
        optim=OptimConfig(
            lr=1e-3, warmup_steps=10_000, total_steps=_steps(300, 4096), weight_decay=0.1
        ),
        preprocessing=BIG_VISION,
        augmentation=Augmentation(flip=0.5, crop_scale=TF_CROP, policy="randaug(2,15)", mixup=0.5),
        **_imagenet(4096),
    )


def deit_small() -> Recipe:
    """DeiT-S, 300 epochs without distillation.

    The authors' `main.py` with its defaults, 4 GPUs with 256 images each. The learning rate is
    their 5e-4 per 512 images; they warm up from 1e-6, this from 0. For distillation (their 81.2 %
    with a RegNetY-16GF) add `--model.distillation-token --optim.distill hard` and a
    `--teacher`.

    Reference: https://arxiv.org/abs/2012.12877; `README_deit.md` of facebookresearch/deit.
    Cost: 37.2 chip-hours of TPU v5e at 40 % MFU.
    Result: 79.9 %, the authors'.
    """
    return Recipe(
        model=get("deit_small_patch16_224", drop_path=0.1),
        optim=OptimConfig(
            lr=1e-3,
            end_lr=1e-5,
            warmup_steps=_steps(5, 1024),
            total_steps=_steps(300, 1024),
            weight_decay=0.05,
            label_smoothing=0.1,
            clip_norm=None,
            ema_decay=0.99996,
        ),
        preprocessing=DEIT,
        augmentation=Augmentation(
            flip=0.5,
            crop_scale=INCEPTION,
            policy=TIMM_RANDAUGMENT,
            erasing=0.25,
            mixup=0.8,
            cutmix=1.0,
            repeats=3,
        ),
        **_imagenet(1024),
    )


def deit3_base() -> Recipe:
    """DeiT III, ViT-B/16, 800 epochs at 192 pixels.

    The authors take LAMB at 3e-3 and the same drop path in all blocks; this takes AdamW at DeiT's
    rate for the batch, and drop path that grows with depth.

    Reference: https://arxiv.org/abs/2204.07118; `README_revenge.md` of facebookresearch/deit.
    Cost: 276 chip-hours of TPU v5e at 40 % MFU.
    Result: 83.8 %, the authors' after 20 more epochs at 224 pixels; expect another one.
    """
    return Recipe(
        model=get("deit3_base_patch16_224", image_size=192, drop_path=0.2, layer_scale=1e-4),
        optim=OptimConfig(
            lr=2e-3,
            end_lr=1e-5,
            warmup_steps=_steps(5, 2048),
            total_steps=_steps(800, 2048),
            weight_decay=0.05,
            clip_norm=None,
            loss="bce",
            target_threshold=0.0,
        ),
        preprocessing=DEIT3,
        augmentation=Augmentation(
            flip=0.5,
            crop_scale=INCEPTION,
            policy="3-augment",
            color_jitter=(0.3, 0.3, 0.3, 0.0),
            mixup=0.8,
            cutmix=1.0,
            repeats=3,
        ),
        **_imagenet(2048),
    )


def finetune_384() -> Recipe:
    """DeiT III, ViT-B/16: 20 epochs at 384 pixels, from weights trained at a smaller size.

    The authors' command for 16 GPUs with 32 images each. Downloads the weights to start from;
    `--init` takes any others.

    Reference: https://arxiv.org/abs/2204.07118; `README_revenge.md` of facebookresearch/deit.
    Cost: 30 chip-hours of TPU v5e at 40 % MFU.
    Result: 85.0 %, the authors', from 83.8 % at 224 pixels.
    """
    return Recipe(
        model=get("deit3_base_patch16_384", drop_path=0.15),
        init="hf://timm/deit3_base_patch16_224.fb_in1k",
        optim=OptimConfig(
            lr=1e-5,
            end_lr=1e-5,
            warmup_steps=_steps(5, 512),
            total_steps=_steps(20, 512),
            weight_decay=0.1,
            label_smoothing=0.1,
            clip_norm=None,
        ),
        preprocessing=DEIT3,
        augmentation=Augmentation(
            flip=0.5, crop_scale=INCEPTION, policy=TIMM_RANDAUGMENT, mixup=0.8, cutmix=1.0
        ),
        **_imagenet(512),
    )


def _steps(epochs: int, batch_size: int) -> int:
    """Steps of that many epochs, the incomplete batch of each left out, as the authors count."""
    return epochs * (IMAGES // batch_size)


def _imagenet(batch_size: int) -> dict:
    return {
        "data": "imagenet2012",
        "batch_size": batch_size,
        "eval_batch_size": min(batch_size, 1024),
        "eval_every": 5000,
        "log_every": 50,
        "dtype": "bfloat16",
        "workers": 8,
    }


IMAGENET = (
    article,
    article_progressive,
    imagenet_s16_90ep,
    imagenet_b16_300ep,
    deit_small,
    deit3_base,
    finetune_384,
)
