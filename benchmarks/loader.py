"""Images a second and core of the HCL recipe: two random crops of an object's surroundings, the
object and its scene, each 224 px, with MoCo v2's colors.

    python benchmarks/loader.py [--images COCO_FOLDER] [--seconds 240] [--device cuda]

from the root of the repository, with PYTHONPATH=. where the package is not installed. COCO_FOLDER
has annotations/instances_train2017.json and train2017/; where there is none, embedded scenes with
as many pixels as 640 x 480 are written as JPEG of quality 95. Writes
benchmarks/results/loader_<device>.json and prints tables.

CPU seconds of one thread in one process (time.process_time); all contestants take the same rows in
every turn, in random order; a ratio is the median of the ratios within one turn. Ours make whole
batches in shared memory; the others only the tensors of each sample, but for "pillow, collated",
which makes batches as torch's loader does. `transport` is what the training process pays.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from surroundings import surroundings
from torch import Tensor
from torchvision import transforms as T
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from pretrain.data import decode, device
from pretrain.data.augment import AugmentSettings
from pretrain.data.batches import ViewDataset
from pretrain.data.index import Index
from pretrain.data.loader import build_loader
from pretrain.data.plan import Batch, Crop, ViewPlan
from pretrain.data.shared_memory import Blocks, Parcel, shared_memory
from pretrain.data.views import ViewSettings
from pretrain.datasets.packing import write as write_pack
from pretrain.datasets.scenes.coco_writer import write as write_scenes
from pretrain.datasets.scenes.scene_set import SceneSet
from pretrain.datasets.source import DataSettings, open_index

try:
    from lightly.transforms import MoCoV2Transform
except ImportError:
    MoCoV2Transform = None

RESULTS = Path(__file__).parent / "results"
SIZE, LEAST_AREA, CONTEXT = 224, 56**2, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACK_SIDE = 320
TURN = 32  # images of a contestant's turn
PLAN = ViewPlan(
    SIZE,
    (
        Crop("first", "object_context", random_resized=True),
        Crop("second", "object_context", random_resized=True),
        Crop("object", "object", random_resized=False),
        Crop("scene", "scene", random_resized=False),
    ),
)
VIEWS, AUGMENT = ViewSettings(), AugmentSettings()
H100_IMAGES = 1200.0
"""Assumed: ResNet-50 images an H100 takes forward and backward in a second, 224 px, bf16."""
IMAGES_PER_SAMPLE = 4.0
"""Three queries forward and backward, three keys forward at a third of that each."""

Window = tuple[int, int, int, int]
Contestant = Callable[[int, list[int]], object]  # epoch, rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--images", type=Path, default=os.environ.get("HCL_COCO_TINY"))
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--image-rate", type=float, default=H100_IMAGES)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    packages = ("torch", "torchvision", "pillow", "simplejpeg", "lightly", "numpy")
    report = surroundings(options.device, packages)
    with tempfile.TemporaryDirectory() as folder:
        index, report["images"] = data_set(options.images, Path(folder))
        report["contestants"] = pipelines(index, Path(folder), options)
        report["device part"] = device_part(index, options)
        report["transport"] = transport(index)
    report["load_after"] = os.getloadavg()
    report["cores for an H100"] = cores(report["contestants"], options.image_rate)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"loader_{options.device}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def data_set(images: Path | None, folder: Path) -> tuple[Index, dict[str, object]]:
    """Real COCO images, or embedded scenes of their size."""
    if images is not None:
        root = Path(images)
        annotations, pictures = root / "annotations/instances_train2017.json", root / "train2017"
        what = "COCO train2017"
    else:
        write_scenes(SceneSet(64, 0, 0, 554, 0.15), folder / "scenes", workers=1)
        annotations = folder / "scenes/annotations/instances_train.json"
        pictures = folder / "scenes/train"
        for file in sorted(pictures.iterdir()):
            Image.open(file).save(file, quality=95)
        what = "embedded scenes, 554 x 554 px, JPEG of quality 95 (no real images given)"
    index = open_index(
        DataSettings(
            annotations=str(annotations),
            images=str(pictures),
            on_bad_box="drop",
            index=str(folder / "index"),
        )
    )
    paths = [index.path(row) for row in range(len(index))]
    facts = {
        "what": what,
        "count": len(index),
        "kilobytes": statistics.mean(path.stat().st_size for path in paths) / 1e3,
        "megapixels": statistics.mean(math.prod(index.size(row)) for row in range(len(index)))
        / 1e6,
        "boxes": index.box_count / len(index),
    }
    print(facts)
    return index, facts


# ------------------------------------------------------------------------------ contestants


class PillowBlur:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def usual_choice(index: Index, row: int) -> tuple[Window, Window, Window]:
    """Object, its jittered surroundings and scene by the published rules, without their bugs."""
    width, height = index.size(row)
    boxes = [tuple(int(value) for value in box) for box in index.boxes(row)]
    boxes = [b for b in boxes if (b[2] - b[0]) * (b[3] - b[1]) >= LEAST_AREA]
    if len(boxes) < 2:  # here as in ours: the published code takes another image
        boxes = [*boxes, (0, 0, width, height), (width // 4, height // 4, width, height)][:2]
    x1, y1, x2, y2 = chosen = random.choice(boxes)
    around = chosen
    if (x2 - x1) * (y2 - y1) < CONTEXT**2:
        w, h = max(0, CONTEXT - (x2 - x1)), max(0, CONTEXT - (y2 - y1))
        around = (
            random.randint(max(0, x1 - w), x1),
            random.randint(max(0, y1 - h), y1),
            random.randint(x2, min(width, x2 + w)),
            random.randint(y2, min(height, y2 + h)),
        )
    several = [*random.sample(boxes, random.randint(2, min(len(boxes), 5))), chosen]
    left, top, right, bottom = zip(*several, strict=True)
    return chosen, around, (min(left), min(top), max(right), max(bottom))


def pillow(index: Index) -> Contestant:
    """The published loader: Pillow images, torchvision's transforms of them."""
    colors = [
        T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        T.RandomGrayscale(p=0.2),
        T.RandomApply([PillowBlur()], p=0.5),
        T.RandomHorizontalFlip(),
        T.ToTensor(),
        T.Normalize(MEAN, STD),
    ]
    part = T.Compose([T.RandomResizedCrop(SIZE, scale=(0.2, 1.0)), *colors])
    whole = T.Compose([T.Resize((SIZE, SIZE)), *colors])

    def run(_: int, rows: list[int]) -> list[list[Tensor]]:
        samples = []
        for row in rows:
            chosen, around, scene = usual_choice(index, row)
            image = Image.open(index.path(row)).convert("RGB")
            parent = image.crop(around)
            samples.append(
                [part(parent), part(parent), whole(image.crop(chosen)), whole(image.crop(scene))]
            )
        return samples

    return run


class TensorBlur:
    """torchvision's blur of tensors with no more taps than the strength drawn needs."""

    def __call__(self, image: Tensor) -> Tensor:
        sigma = random.uniform(0.1, 2.0)
        taps = 2 * math.ceil(3 * sigma) + 1
        return v2.functional.gaussian_blur(image, [taps, taps], [sigma, sigma])


def torchvision_v2(index: Index) -> Contestant:
    """The same with torchvision's second transforms, on uint8 tensors to the end."""
    colors = [
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([TensorBlur()], p=0.5),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    part = v2.Compose([v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0), antialias=True), *colors])
    whole = v2.Compose([v2.Resize((SIZE, SIZE), antialias=True), *colors])

    def run(_: int, rows: list[int]) -> list[list[Tensor]]:
        samples = []
        for row in rows:
            chosen, around, scene = usual_choice(index, row)
            content = torch.frombuffer(bytearray(index.path(row).read_bytes()), dtype=torch.uint8)
            image = decode_jpeg(content, mode=ImageReadMode.RGB)
            cuts = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in (around, chosen, scene)]
            samples.append([part(cuts[0]), part(cuts[0]), whole(cuts[1]), whole(cuts[2])])
        return samples

    return run


def lightly(index: Index) -> Contestant:
    """lightly's MoCo v2: it has random crops only, so the last two views are such crops too."""
    both = MoCoV2Transform(input_size=SIZE)
    one = both.transforms[0]

    def run(_: int, rows: list[int]) -> list[list[Tensor]]:
        samples = []
        for row in rows:
            chosen, around, scene = usual_choice(index, row)
            image = Image.open(index.path(row)).convert("RGB")
            samples.append(
                [*both(image.crop(around)), one(image.crop(chosen)), one(image.crop(scene))]
            )
        return samples

    return run


def ours(index: Index, **options: Any) -> Contestant:
    """A worker's part, written where the training process can read it."""
    memory = Blocks(1, 2, TURN * 3 * max(4 * SIZE**2, 640**2))
    dataset = ViewDataset(index, PLAN, VIEWS, AUGMENT, 0, blocks=memory, **options)

    def run(epoch: int, rows: list[int]) -> Batch:
        parcel = dataset.__getitems__([(epoch, row) for row in rows])
        assert isinstance(parcel, Parcel)
        return parcel.open()

    return run


def contestants(index: Index, folder: Path) -> dict[str, Contestant]:
    make = functools.partial(ours, index)
    kept = write_pack(index, folder / "pack", None)
    small = write_pack(index, folder / f"pack{PACK_SIDE}", PACK_SIDE)
    found = {
        "pillow": pillow(index),
        "pillow, collated": collated(pillow(index)),
        "torchvision v2": torchvision_v2(index),
    }
    if MoCoV2Transform is None:
        print("lightly is not installed: left out")
    else:
        found["lightly"] = lightly(index)
    return found | {
        "decode alone": decode_alone(index),
        "crops": make(),
        "crops, without simplejpeg": without_simplejpeg(make()),
        "device crops": make(device_crops=True),
        "pack, crops": make(pack=kept),
        f"pack of {PACK_SIDE} px, crops": make(pack=small),
        f"pack of {PACK_SIDE} px, device crops": make(pack=small, device_crops=True),
    }


def collated(run: Contestant) -> Contestant:
    """The batch as torch's default collation makes it in a worker, in shared memory."""

    def other(epoch: int, rows: list[int]) -> list[Tensor]:
        samples = run(epoch, rows)
        assert isinstance(samples, list)
        batch = []
        for views in zip(*samples, strict=True):
            shape = (len(views), *views[0].shape)
            memory = shared_memory(4 * math.prod(shape)).view(torch.float32).view(shape)
            batch.append(torch.stack(views, out=memory))
        return batch

    return other


def decode_alone(index: Index) -> Contestant:
    """The bound of every way that starts at a file."""
    scratch = decode.Scratch()

    def run(_: int, rows: list[int]) -> None:
        for row in rows:
            decode.read_image(index.path(row), index.size(row), scratch)

    return run


def without_simplejpeg(run: Contestant) -> Contestant:
    simplejpeg = decode.simplejpeg

    def other(epoch: int, rows: list[int]) -> object:
        decode.simplejpeg = None
        try:
            return run(epoch, rows)
        finally:
            decode.simplejpeg = simplejpeg

    return other


# ------------------------------------------------------------------------------------- time


def pipelines(index: Index, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Per contestant: samples/s and core, and how many times Pillow's."""
    runs = contestants(index, folder)
    for run in runs.values():
        run(0, list(range(min(TURN, len(index)))))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    deadline, turn = time.perf_counter() + options.seconds, 0
    while turn < 5 or time.perf_counter() < deadline:
        turn += 1
        rows = random.sample(range(len(index)), min(TURN, len(index)))
        for name in random.sample(list(runs), len(runs)):
            started = time.process_time()
            runs[name](turn, rows)
            seconds[name].append((time.process_time() - started) / len(rows))
    rows_out: dict[str, object] = {}
    print(f"{'':36} samples/s and core   times pillow [5 %, 95 %] of {turn} turns")
    for name, own in seconds.items():
        ratios = sorted(a / b for a, b in zip(seconds["pillow"], own, strict=True))
        low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
        rate = 1 / statistics.median(own)
        rows_out[name] = {
            "samples per second": rate,
            "milliseconds": 1e3 / rate,
            "times pillow": middle,
            "5 %": low,
            "95 %": high,
        }
        print(f"{name:36} {rate:19.0f}   {middle:5.2f} [{low:.2f}, {high:.2f}]")
    return rows_out


def device_part(index: Index, options: argparse.Namespace) -> dict[str, object]:
    """What the device does, per sample of four views: cutting where it cuts, colors, both."""
    target = torch.device(options.device)
    colors = AUGMENT.by_view(list(PLAN.sides))
    count = 8 if options.device == "cpu" else 128
    rows = [(0, row % len(index)) for row in range(count)]
    parts: dict[str, Callable[[], object]] = {}
    for name, crops in (("colours", False), ("cutting and colors", True)):
        batch = ViewDataset(index, PLAN, VIEWS, AUGMENT, 0, device_crops=crops).__getitems__(rows)
        assert isinstance(batch, Batch)
        if options.device == "cuda":
            batch = batch.pin_memory()
        for compiled in (False, True) if options.device == "cuda" else (False,):
            label = f"{name}, compiled" if compiled else name
            dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
            parts[label] = functools.partial(
                device.views, batch, target, colors, PLAN.sides, dtype=dtype, compiled=compiled
            )
    found: dict[str, object] = {"samples": count}
    for label, part in parts.items():
        part()
        times = [clock(part, target) / count for _ in range(7)]
        found[label] = {
            "milliseconds per sample": 1e3 * statistics.median(times),
            "samples per second": 1 / statistics.median(times),
        }
        print(f"device part, {label}: {1e3 * statistics.median(times):.3f} ms a sample of 4 views")
    return found


def clock(run: Callable[[], object], target: torch.device) -> float:
    if target.type != "cuda":
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def transport(index: Index) -> dict[str, float]:
    """CPU seconds the training process spends on receiving a sample from one worker."""
    found = {}
    size = min(TURN, len(index))
    for name, crops in (("crops", False), ("device crops", True)):
        loader = build_loader(
            index, PLAN, VIEWS, AUGMENT, batch_size=size, seed=0, start_step=0,
            total_steps=12, workers=1, device_crops=crops,
        )  # fmt: skip
        batches = iter(loader)
        next(batches)
        started = time.process_time()
        received = sum(len(batch.rows) for batch in batches)
        spent = time.process_time() - started
        found[f"{name}, milliseconds per sample"] = 1e3 * spent / received
    print("transport:", {name: round(value, 3) for name, value in found.items()})
    return found


def cores(found: dict[str, object], image_rate: float) -> dict[str, object]:
    """Cores that feed one GPU which takes so many images a second, by contestant, no headroom."""
    wanted = image_rate / IMAGES_PER_SAMPLE
    print(
        f"an H100 at {image_rate:.0f} images/s forward and backward (assumed) takes "
        f"{wanted:.0f} samples/s"
    )
    counts = {}
    for name, row in found.items():
        assert isinstance(row, dict)
        counts[name] = wanted / row["samples per second"]
        print(f"  {name:36} {counts[name]:5.2f} cores ({1.5 * counts[name]:.1f} with headroom)")
    return {
        "assumed images per second": image_rate,
        "images per sample": IMAGES_PER_SAMPLE,
        "samples per second": wanted,
        "cores": counts,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
