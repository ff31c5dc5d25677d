"""Settings that make a run fail silently, because they do not suit its data or its length.

Each check looks at one thing and yields sentences that name the setting, its value, the reason
and what to set instead. The limits lie outside everything that published recipes use, so the
full-size presets get no advice but on the length of their queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.config import RunSettings
from pretrain.data.coverage import fallback_share, lack_of_boxes, objects_per_image, valid_boxes
from pretrain.data.index import Index
from pretrain.data.pack import Pack
from pretrain.data.pairs import PairTable
from pretrain.methods.base import Method
from pretrain.methods.bootstrap import BootstrapSettings
from pretrain.methods.densecl import DenseCLSettings
from pretrain.methods.hcl.branch import HCL
from pretrain.methods.moco import MocoSettings
from pretrain.models import DenseEncoder, Queue
from pretrain.optim import rate_warning
from pretrain.schedule import learning_rate, warmup_steps

MOST_FALLBACKS = 0.2
"""Share of rows without the boxes that their views need."""

LONGEST_QUEUE = 0.25
"""Share of the images whose keys a queue holds; see ``own_keys_share``."""

PUBLISHED_QUEUE = 65_536

MOST_INITIAL = 0.1
"""Share of the random initialization in the key encoder's weights at the end of the run."""

RATES = (0.03, 0.3)
"""SGD's rates for 256 images and momentum 0.9 in the recipes of MoCo, DenseCL, HCL and ORL."""

FEWEST_IMAGES = 10_000
"""Images seen. Measured (docs/methods.md): 4,800 left every method behind a random network."""

FEWEST_PIXELS = 16
"""Side of an object, in pixels of the image that its view is cut from."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run before it starts.

    Attributes:
        settings: of the run.
        method: as built, before any checkpoint is read.
        images: of the data set; None: not known.
        total_steps: of the run; None: not known.
        index: of the data, where it is here.
        pairs: the table of pairs, where there is one.
        pack: the packed images, where there are any.
    """

    settings: RunSettings
    method: Method
    images: int | None
    total_steps: int | None
    index: Index | None = None
    pairs: PairTable | None = None
    pack: Pack | None = None


@dataclass(frozen=True)
class Run(Facts):
    """The same of a run whose length is known, and not zero."""

    images: int
    total_steps: int

    @property
    def epoch_steps(self) -> int:
        """Steps of a pass over the data."""
        return self.images // self.settings.optim.batch_size

    @property
    def seen(self) -> int:
        """Images seen in the whole run, repeated ones counted again."""
        return self.total_steps * self.settings.optim.batch_size


def advise(facts: Facts) -> list[str]:
    """All advice on a run; none where it has no steps, as that of a random network.

    Where the number of images is not known, checks that need it are left out.
    """
    if facts.total_steps == 0:
        return []
    found = [*_rate(facts), *_temperature(facts), *_batch_norm(facts), *_cells(facts)]
    if facts.images is not None and facts.total_steps is not None:
        run = Run(**vars(facts))
        if run.epoch_steps > 0:  # else the run is refused
            found += [*_images_seen(run), *_warmup(run), *_rate_at_the_end(run), *_momentum(run)]
            found += [*_queue(run), *_left_out(run), *_dense_from(run)]
            found += [*_checkpoints(run), *_logged_lines(run)]
    if (index := facts.index) is not None:
        found += _fallbacks(facts, index)
        found += [*_small_objects(facts, index), *_small_images(facts, index)]
    return found


# ------------------------------------------------------------------------- of settings alone


def _rate(facts: Facts) -> Iterator[str]:
    optim = facts.settings.optim
    if (parted := rate_warning(optim)) is not None:
        yield parted
    if optim.optimizer != "sgd":
        return
    # With momentum m a gradient moves the weights by rate/(1 - m) in the end.
    rate = optim.peak_lr * 256 / optim.batch_size * 0.1 / max(1 - optim.momentum, 1e-9)
    low, high = RATES
    if not low / 10 <= rate <= high * 3:
        share = optim.batch_size / 256 * (1 - optim.momentum) / 0.1
        yield (
            f"optim.lr: the peak rate {optim.peak_lr:g} for {optim.batch_size} images with "
            f"momentum {optim.momentum:g} is like {rate:.2g} for 256 images with momentum 0.9, "
            f"where published recipes have {low:g} to {high:g}; take {low * share:.2g} to "
            f"{high * share:.2g}"
        )


def _temperature(facts: Facts) -> Iterator[str]:
    method, hcl = facts.settings.method, facts.settings.hcl
    given = {}
    if isinstance(method, MocoSettings):
        given["method.temperature"] = method.temperature
    if hcl is not None and hcl.weight > 0:
        given["hcl.temperature"] = hcl.temperature
    for name, value in given.items():
        if not 0.02 <= value <= 1:
            weighed = (
                "only the hardest negatives" if value < 0.02 else "all negatives about equally"
            )
            yield (
                f"{name}={value:g}: the loss then depends on {weighed}; published recipes have "
                "0.07 to 0.2, and 0.2 is the default"
            )


def _batch_norm(facts: Facts) -> Iterator[str]:
    settings = facts.settings.method
    if not isinstance(settings, MocoSettings):
        return
    if not any(isinstance(layer, _BatchNorm) for layer in facts.method.encoder.modules()):
        return
    if settings.batch_norm == "plain":
        yield (
            "method.batch_norm=plain: a key shares its batch statistics with its own query, so "
            "that the network can tell it from the negatives by them, and the loss falls without "
            "features being learned; set method.batch_norm=shuffled"
        )
    elif settings.batch_norm != "synchronized" and settings.norm_group < 8:
        yield (
            f"method.norm_group={settings.norm_group}: batch statistics of so few samples are "
            "noise; set it to 16 or 32, with an optim.batch_size of at least twice that"
        )


def _cells(facts: Facts) -> Iterator[str]:
    encoder, settings = facts.method.encoder, facts.settings
    if isinstance(settings.method, DenseCLSettings) and isinstance(encoder, DenseEncoder):
        size, grid = settings.views.size, settings.method.grid
        if encoder.feature_map.side == 1:
            yield (
                f"views.size={size}: DenseCL's feature map has a single cell, so its dense loss "
                f"repeats the global one; set views.size={3 * size} or more"
            )
        elif grid == 1:
            yield (
                "method.grid=1: a single cell, so DenseCL's dense loss repeats the global one; set "
                f"method.grid={encoder.feature_map.side}, the side of its feature map"
            )


# ------------------------------------------------------------------------- of a run's length


def _images_seen(run: Run) -> Iterator[str]:
    if run.seen < FEWEST_IMAGES:
        yield (
            f"train: {run.total_steps} steps of {run.settings.optim.batch_size} images are "
            f"{run.seen:,} images in all, too few to learn from: after 4,800 no method was "
            "better than a random network; train longer (train.epochs or train.steps)"
        )


def _warmup(run: Run) -> Iterator[str]:
    optim, total = run.settings.optim, run.total_steps
    warmup = warmup_steps(optim, run.epoch_steps)
    if warmup > total / 4:
        name = "optim.warmup_steps" if optim.warmup_steps else "optim.warmup_epochs"
        effect = ", so that the rate never reaches its peak" if warmup >= total else ""
        best = total // 10
        value = best if optim.warmup_steps else round(best / run.epoch_steps, 2)
        yield (
            f"{name}: the warm-up takes {warmup:,} of the run's {total:,} steps{effect}; set "
            f"{name}={value:g}{' or less' if value else ''}"
        )


def _rate_at_the_end(run: Run) -> Iterator[str]:
    optim = run.settings.optim
    if optim.schedule == "cosine":
        last = learning_rate(optim, run.total_steps - 1, run.total_steps, run.epoch_steps)
        share = last / optim.peak_lr
        if optim.schedule_per == "epoch" and share > optim.final_lr + 0.1:
            yield (
                "optim.schedule_per=epoch: the rate changes once an epoch, and in the last of so "
                f"few epochs it is still {share:.0%} of its peak; set optim.schedule_per=step"
            )
    if optim.schedule == "step":
        late = [m for m in optim.milestones if m * run.epoch_steps >= run.total_steps]
        if late:
            yield (
                f"optim.milestones: the run ends before epoch {late[0]}, after "
                f"{run.total_steps / run.epoch_steps:.3g} epochs; set milestones within the run"
            )


def _momentum(run: Run) -> Iterator[str]:
    settings, total = run.settings.method, run.total_steps
    if isinstance(settings, MocoSettings):
        share, best = settings.momentum**total, 1 - 20 / total
    elif isinstance(settings, BootstrapSettings):
        # The momentum grows to 1 along half a cosine: see Bootstrap.begin_step.
        swing = (np.cos(np.pi * np.arange(total) / total) + 1) / 2
        share, best = float(np.prod(1 - (1 - settings.momentum) * swing)), 1 - 40 / total
    else:
        return
    if share > MOST_INITIAL:
        yield (
            f"method.momentum={settings.momentum:g}: after the run's {total:,} steps {share:.0%} "
            "of the key encoder's weights are still the random initialization; set "
            f"method.momentum={max(best, 0.5):.3g} or less"
        )


def _queue(run: Run) -> Iterator[str]:
    longest: dict[str, Queue] = {}
    for name, module in run.method.named_modules():
        if isinstance(module, Queue):
            own = isinstance(run.method, HCL) and not name.startswith("base.")
            setting = "hcl.queue" if own else "method.queue"
            longest[setting] = max(module, longest.get(setting, module), key=lambda q: len(q.rows))
    for setting, queue in longest.items():
        size = len(queue.rows)
        # Every queue takes one key of an image each time it is seen, in each direction.
        if size > LONGEST_QUEUE * run.images and run.seen > run.images:
            published = f", unless you reproduce a published recipe, which has {PUBLISHED_QUEUE:,}"
            yield (
                f"{setting}={size}: the queue holds the keys of {size / run.images:.2g} passes "
                f"over the {run.images:,} images, so that {own_keys_share(size, run.images):.0%} "
                "of the queries meet older keys of their own image among the negatives; set "
                f"{setting}={int(LONGEST_QUEUE * run.images)} or less"
                f"{published if size == PUBLISHED_QUEUE else ''}"
            )
        if len(queue.keys()) == size > run.seen / 4:
            yield (
                f"{setting}={size}: the queue starts with random keys, and the run sees "
                f"{run.seen:,} images, so that random ones are negatives for much of it; set "
                f"{setting}={max(run.seen // 16, 1)} or less"
            )


def own_keys_share(size: int, images: int) -> float:
    """Share of queries that find a key of their own image in a queue of ``size`` keys.

    Every image gives the queue one key an epoch, in an order drawn anew. Its place in the epoch
    before and its place in this one are then uniform and independent, and the key is still there
    if no more than ``size`` lie between: K²/2 of it in images squared up to one epoch, and
    1 - (2 - K)²/2 up to two, with K in epochs.
    """
    epochs = size / images
    return epochs**2 / 2 if epochs <= 1 else 1 - max(2 - epochs, 0) ** 2 / 2


def _left_out(run: Run) -> Iterator[str]:
    batch = run.settings.optim.batch_size
    left = run.images % batch
    if left > 0.1 * run.images:
        yield (
            f"optim.batch_size={batch}: an epoch is {run.epoch_steps} whole batches and leaves out "
            f"{left} of the {run.images} images, others each time; take a smaller batch"
        )


def _dense_from(run: Run) -> Iterator[str]:
    settings = run.settings.method
    if isinstance(settings, DenseCLSettings) and settings.dense_from > run.total_steps / 2:
        yield (
            f"method.dense_from={settings.dense_from}: the dense loss counts from there on, and "
            f"the run has {run.total_steps:,} steps; set it to 0, or to {run.total_steps // 10}"
        )


def _checkpoints(run: Run) -> Iterator[str]:
    every, total = run.settings.train.checkpoint_every, run.total_steps
    if every > total >= 1000:
        yield (
            f"train.checkpoint_every={every}: none is written before the end of the run's "
            f"{total:,} steps, so an interruption loses all of it; set "
            f"train.checkpoint_every={total // 10}"
        )


def _logged_lines(run: Run) -> Iterator[str]:
    every, total = run.settings.train.log_every, run.total_steps
    if total >= 100 and every > total / 5:
        yield (
            f"train.log_every={every}: the run's {total:,} steps are logged {-(-total // every)} "
            f"times, too few for curves and for the warning of a collapse; set "
            f"train.log_every={max(total // 20, 1)}"
        )


# ---------------------------------------------------------------------------------- of data


def _fallbacks(facts: Facts, index: Index) -> Iterator[str]:
    views, plan = facts.settings.views, facts.method.view_plan
    if lack_of_boxes(index, plan, views) is not None:
        return  # the run is refused
    share = fallback_share(index, plan, views, facts.pairs)
    if share > MOST_FALLBACKS:
        lonely = " (or without a pair of regions)" if plan.pairs else ""
        yield (
            f"views: {share:.0%} of the images have too few boxes of views.min_box_area="
            f"{views.min_box_area:g} px²{lonely}, so that random regions or the whole image stand "
            "for their objects and scenes; lower views.min_box_area, or make boxes with hcl data "
            "propose"
        )


def _small_objects(facts: Facts, index: Index) -> Iterator[str]:
    plan, views = facts.method.view_plan, facts.settings.views
    sides = [
        plan.side(crop)
        for crop in plan.crops
        if crop.region in ("object", "object_jittered") and not crop.random_resized
    ]
    boxes = valid_boxes(index, views)
    if not sides or not len(boxes) or max(sides) < 2 * FEWEST_PIXELS:
        return
    scale = _scale(facts, index)
    per_box = np.repeat(scale, objects_per_image(index, views))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * per_box
    share = float((areas < FEWEST_PIXELS**2).mean())
    if share > 0.1:
        shrunk = " of the packed images" if facts.pack is not None else ""
        least = FEWEST_PIXELS**2 / float(np.median(scale))
        yield (
            f"views.min_box_area={views.min_box_area:g}: {share:.0%} of the boxes are smaller than "
            f"{FEWEST_PIXELS} x {FEWEST_PIXELS} pixels{shrunk} and enlarged to views of "
            f"{max(sides)} px, which show little; set views.min_box_area={least:.0f} or more"
        )


def _small_images(facts: Facts, index: Index) -> Iterator[str]:
    size = facts.settings.views.size
    shorter = np.asarray(index.column("sizes")).min(1) * np.sqrt(_scale(facts, index))
    median = float(np.median(shorter))
    if size > 2 * median:
        yield (
            f"views.size={size}: half of the images have a shorter side of {median:.0f} px or "
            f"less, so that views are mostly interpolation; set views.size={median:.0f} or less"
        )


def _scale(facts: Facts, index: Index) -> NDArray[np.float64]:
    """Pixels of the image that is read for one of its file's, of every row: (rows,)."""
    if facts.pack is None:
        return np.ones(len(index))
    read = facts.pack.sizes.astype(np.float64).prod(1)
    scale: NDArray[np.float64] = read / np.asarray(index.column("sizes"), np.float64).prod(1)
    return scale
