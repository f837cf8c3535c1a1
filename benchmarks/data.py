"""Input pipelines: images a second and core, against bare Pillow, timm and Hugging Face.

    python -m benchmarks.data --json data.json

Two tasks on the same JPEG files of 500 x 375 pixels, batches of 32 normalised float32 images:
`evaluate` resizes to 224 x 224 (bicubic, the aspect ratio ignored, as Hugging Face's processor
does), `train` takes an Inception crop of 224 and flips half of the images. Of Hugging Face's that
is datasets with torchvision's v2 transforms on 8-bit tensors, as its processors have no
augmentation: the kernel of the former and of `resize_by="torch"`. The floor decodes and
resizes with Pillow, and nothing else: no normalisation, no batches. All run in one process
without workers on one core (Linux), take turns in rounds of one pass over the files, and are
measured in CPU time of the process with all its threads. On several cores the threads of one
contender would slow each other down and PyTorch's would wait while they count, and the floor has
one thread only. What is not installed is left out.

Photographs come from `--photos`, else from scikit-image, else the two of scikit-learn.
"""

import argparse
import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import _blocks, _machine
from benchmarks._rounds import in_rounds, ratios, spread
from benchmarks._svg import Bar, Plot
from benchmarks._tables import with_spread
from vit_data import Augmentation, eval_batches, open_source, train_batches
from vit_data.augment import crop_box
from vit_data.resize import ResizeBy
from vit_spec import Preprocessing

SIDE, BATCH = 224, 32
FACTS = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), squash=True,
                      crop_fraction=1.0)  # fmt: skip
PACKAGES = ("numpy", "pillow", "grain", "timm", "torchvision", "datasets", "transformers")
CROP = Augmentation(crop_scale=(0.08, 1.0), flip=0.5)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "motorcycle_left",
          "motorcycle_right", "retina", "ihc", "brick", "grass", "gravel")  # fmt: skip

Work = Callable[[], int]  # goes over all files once and returns the number of images


def photographs(folder: Path | None) -> list[Path]:
    """Files of photographs: of `folder`, of scikit-image or of scikit-learn."""
    if folder is not None:
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    spec = importlib.util.find_spec("skimage")
    if spec is not None and spec.origin:
        data = Path(spec.origin).parent / "data"
        return sorted(p for name in PHOTOS for p in data.glob(f"{name}.*"))
    import sklearn.datasets

    return sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))


def write_files(photos: list[Path], folder: Path, count: int) -> list[Path]:
    """`count` parts of the photographs as JPEG of 500 x 375 or 375 x 500, a class for each."""
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        photo = photos[i % len(photos)]
        with Image.open(photo) as opened:
            picture = opened.convert("RGB")
        size = (500, 375) if i % 4 else (375, 500)
        scale = min(picture.width / size[0], picture.height / size[1]) * (0.6 + 0.4 * rng.random())
        w, h = size[0] * scale, size[1] * scale
        x, y = rng.random() * (picture.width - w), rng.random() * (picture.height - h)
        place = folder / "train" / photo.stem
        place.mkdir(parents=True, exist_ok=True)
        part = picture.resize(size, Image.Resampling.BICUBIC, (x, y, x + w, y + h))
        part.save(place / f"{i}.jpg", quality=92)
        files.append(place / f"{i}.jpg")
    (folder / "val").mkdir()
    return files


def floor(files: list[Path], *, train: bool) -> Work:
    """Pillow alone."""

    def run() -> int:
        rng = np.random.default_rng(0)
        for file in files:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
            if train:
                top, left, h, w = crop_box((picture.height, picture.width), rng, CROP)
                picture = picture.crop((left, top, left + w, top + h))
            picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return len(files)

    return run


def ours(folder: Path, *, train: bool, resize_by: ResizeBy) -> Work:
    """`vit_data`."""
    source = open_source(folder, split="train")
    facts: Any = {"batch_size": BATCH, "size": SIDE, "channels": 3, "preprocessing": FACTS,
                  "cache": False, "resize_by": resize_by}  # fmt: skip

    def run() -> int:
        if train:
            batches = train_batches(source, augmentation=CROP, seed=0, epochs=1, **facts)
        else:
            batches = eval_batches(source, **facts)
        return sum(len(batch["image"]) for batch in batches)

    return run


def timm(files: list[Path], *, train: bool) -> Work:
    """timm's data set, transform and loader."""
    importlib.import_module("tests.oracles.timm_models")  # makes torchvision importable
    from timm.data import ImageDataset, create_loader

    loader = create_loader(
        ImageDataset(str(files[0].parents[1])), (3, SIDE, SIDE), BATCH, is_training=train,
        use_prefetcher=False, num_workers=0, interpolation="bicubic", color_jitter=0.0,
        crop_pct=1.0, crop_mode="squash", mean=FACTS.mean, std=FACTS.std, hflip=0.5,
        persistent_workers=False,
    )  # fmt: skip
    return lambda: sum(len(images) for images, _ in loader)


def hugging_face(files: list[Path], *, train: bool) -> Work:
    """A data set of files in datasets, through `processed` or `transformed`."""
    datasets, pyarrow = (importlib.import_module(name) for name in ("datasets", "pyarrow"))
    importlib.import_module("tests.oracles.timm_models")  # makes torchvision importable
    prepare = transformed() if train else processed()
    features = datasets.Features({"image": datasets.Image(mode="RGB")})
    paths = features["image"].cast_storage(pyarrow.array([str(file) for file in files]))
    table = datasets.table.InMemoryTable(pyarrow.table({"image": paths}))
    info = datasets.DatasetInfo(features=features)
    data = datasets.Dataset(table, info=info, fingerprint="files")

    return lambda: sum(len(prepare(batch["image"])) for batch in data.iter(BATCH))


def processed() -> Callable[[list[Image.Image]], Any]:
    """transformers' image processor for ViT."""
    from transformers import ViTImageProcessor

    processor = ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, resample=3, image_mean=FACTS.mean,
        image_std=FACTS.std, do_resize=True,
    )  # fmt: skip
    return lambda images: processor(images, return_tensors="np")["pixel_values"]


def transformed() -> Callable[[list[Image.Image]], Any]:
    """torchvision's transforms, on 8-bit tensors until the normalisation."""
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.PILToTensor(),
        v2.RandomResizedCrop(SIDE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(FACTS.mean, FACTS.std),
    ])  # fmt: skip
    return lambda images: torch.stack([transform(image) for image in images])


def contenders(folder: Path, files: list[Path], *, train: bool) -> dict[str, Work]:
    """Everything that is installed, by name."""
    found = {"floor": floor(files, train=train)}
    makers: dict[str, Callable[[], Work]] = {
        "vitwin": lambda: ours(folder, train=train, resize_by="pillow"),
        "vitwin, resize by PyTorch": lambda: ours(folder, train=train, resize_by="torch"),
        "timm": lambda: timm(files, train=train),
        "hugging_face": lambda: hugging_face(files, train=train),
    }
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def measure(work: dict[str, Work], *, rounds: int) -> dict[str, list[float]]:
    """Images a second of CPU time, round by round, the contenders taking turns.

    The round that does not count imports, and brings the files into the system's cache.
    """

    def rate(name: str) -> float:
        start = time.process_time()
        count = work[name]()
        return count / (time.process_time() - start)

    return in_rounds(rate, list(work), rounds)


def tables(record: Mapping[str, Any]) -> list[_blocks.Block]:
    """A table for each task."""
    found: list[_blocks.Block] = []
    for task, rates in record["tasks"].items():
        shares = {row["of"]: row for row in ratios(rates, [(name, "floor") for name in rates])}
        rows = [[name, with_spread(spread(values)), with_spread(shares[name])]
                for name, values in rates.items()]  # fmt: skip
        found.append((task, (["contender", "images/s and core", "x floor"], rows), ()))
    return found


def plot(record: Mapping[str, Any]) -> Plot:
    """Shares of the floor."""
    rows = [
        Bar(row["of"], row, "vitwin" if row["of"].startswith("vitwin") else "others", task)
        for task, rates in record["tasks"].items()
        for row in ratios(rates, [(name, "floor") for name in rates if name != "floor"])
    ]
    return Plot(
        "Input pipelines on one core: images/s relative to Pillow alone",
        "images/s relative to Pillow alone (longer is faster)",
        rows,
        (1.0, "Pillow alone"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both tasks and prints their tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--photos", type=Path, help="folder of photographs to make the files from")
    parser.add_argument("--files", type=int, default=256, help="number of JPEG files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    settings = {"files": options.files, "rounds": options.rounds}
    found: dict[str, Any] = _machine.record("data", settings, packages=PACKAGES) | {"tasks": {}}
    found["hardware"] = _machine.hardware("cpu", 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(photographs(options.photos), folder, options.files)
        for task in ("evaluate", "train"):
            work = contenders(folder, files, train=task == "train")
            found["tasks"][task] = measure(work, rounds=options.rounds)
    print(_blocks.plain(found, tables(found)))
    if options.json:
        _machine.write(options.json, found)


if __name__ == "__main__":
    main()
