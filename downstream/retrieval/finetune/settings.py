"""The settings of a fine-tuning run."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import pretrain.config
from downstream.retrieval.datasets import DataSettings
from downstream.retrieval.measures import Ties
from pretrain.config import BaseRunSettings, Count, LoopSettings
from pretrain.core.config import Configs
from pretrain.core.settings import Settings, parse
from pretrain.losses.contrast import Numerics
from pretrain.losses.fusion import BallInput, Combine
from pretrain.mixed_precision import Precision
from pretrain.schedule import learning_rate

Positive = Annotated[float, Field(gt=0, lt=math.inf)]


class ModelSettings(Settings):
    """The network: a backbone and one linear layer.

    Attributes:
        backbone: timm's name, such as ``vit_small_patch16_224`` (with a tag or without).
        options: arguments of timm's constructor, such as ``img_size``.
        weights: a file of the backbone's weights (.safetensors, .pth, .npz); ``package:NAME``, the
            file that an installed Python package brings along; ``timm`` to download them by the
            name; None: random.
        run: instead of ``backbone`` and ``weights``: a run folder or checkpoint of `hcl pretrain`,
            or of `hcl retrieve train`, whose backbone is tuned further below a new layer.
        dim: of the embedding.
        size: side of the images, px.
        freeze: 0 freezes the patch embedding of a transformer or the stem of a CNN, n also the
            first n blocks (a CNN's stages, with their running statistics); None trains everything.
        batch_norm: ``fixed``: running statistics are used and kept in training too, which the
            small batches of metric learning often need; ``trained``: those of the batch are used.
        tokens: what a distilled DeiT gives: ``class`` or ``mean`` of class and distillation token;
            ``released``: class in training, mean in evaluation, as timm did when Hyp-ViT was
            trained.
        mean: per channel, for images in [0, 1]; None: what the backbone expects.
        std: likewise.
    """

    backbone: str | None = None
    options: dict[str, Any] = {}
    weights: str | None = None
    run: str | None = None
    dim: Count = 128
    size: Count = 224
    freeze: Annotated[int, Field(ge=0)] | None = None
    batch_norm: Literal["trained", "fixed"] = "trained"
    tokens: Literal["class", "mean", "released"] = "mean"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSettings:
        if (self.backbone is None) == (self.run is None):
            raise ValueError("give exactly one of 'backbone' and 'run'")
        if self.run is not None and (self.weights is not None or self.options):
            raise ValueError("'weights' and 'options' come from the 'run'; leave them out")
        return self


class LossSettings(Settings):
    """Pairwise cross-entropy (Hyp-ViT), in one geometry or both (HypMix).

    Attributes:
        geometry: ``sphere``, ``ball`` or ``mixed``.
        temperature_spherical: t_e of cos/t_e. Hyp-ViT writes the distance 2 - 2cos in its paper,
            so its own temperature there is twice this one.
        temperature_hyperbolic: t_h of -d/t_h.
        weight: λ of the hyperbolic part, where mixed.
        curvature: c of the ball of curvature -c.
        clip_radius: norm to which the ball's input is clipped; None: not clipped. (The released
            codes' 0, meant as that, sets every embedding to 0.)
        combine: where mixed: one softmax over summed ``logits`` as released, or a sum of
            ``losses``.
        ball_input: the ball takes the ``raw`` (clipped) output of the head, or as released by
            HypMix the ``unit`` vector, which makes the distance a function of the cosine.
        numerics: ``official`` for the released codes' epsilons.
    """

    geometry: Literal["sphere", "ball", "mixed"]
    temperature_spherical: Positive = 0.1
    temperature_hyperbolic: Positive = 0.2
    weight: Positive = 0.5
    curvature: Positive = 0.1
    clip_radius: Positive | None = 2.3
    combine: Combine = "logits"
    ball_input: BallInput = "raw"
    numerics: Numerics = "exact"


class SamplerSettings(Settings):
    """Which images make a step.

    Attributes:
        classes: of a step, over all processes.
        samples: images of each of these classes.
    """

    classes: Annotated[int, Field(ge=2)]
    samples: Annotated[int, Field(ge=2)]


class AugmentSettings(Settings):
    """What is done to training images.

    Attributes:
        min_scale: the least share of the image's area that a random crop takes.
        flip: probability of mirroring left and right.
    """

    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.2
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5


class OptimSettings(Settings):
    """AdamW; by default at a constant rate, as in both papers' codes.

    Attributes:
        lr: the rate, or its peak.
        schedule: ``constant``, or ``cosine`` from the peak to 0 over the whole run.
        warmup_steps: over which the rate rises to the schedule's.
        weight_decay: of all parameters.
        betas: of AdamW.
        clip_norm: limit on the gradient's norm; None: no limit.
        clip_scaled: fp16: clip before the scale is taken off, as HypMix released. At a scale of
            65,536 that lets almost nothing of the gradient through.
    """

    lr: Positive = 3e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: Positive | None = 3.0
    clip_scaled: bool = False

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of ``step``, from 0."""
        schedule = pretrain.config.OptimSettings(
            lr=self.lr,
            schedule=self.schedule,
            schedule_per="step",
            warmup_steps=self.warmup_steps,
        )
        return learning_rate(schedule, step, total_steps, epoch_steps=1)


class TrainSettings(LoopSettings):
    """The loop; an epoch is a pass over the classes.

    Attributes:
        precision: of the network; loss and distances are float32 whatever this is.
    """

    precision: Precision = "bf16"
    checkpoint_every: Count = 200


class TestSettings(Settings):
    """The evaluation that ends the run.

    Attributes:
        resize: shorter side before the central square of ``model.size`` is cut out, px; None: that
            size.
        ks: the K of Recall@K; None: those of the data set's papers, else 1 2 4 8.
        ties: see ``measures.measure``; None: ``query`` for In-Shop as its protocol, else ``index``.
        batch: images in one forward.
    """

    resize: Count | None = None
    ks: tuple[Count, ...] | None = None
    ties: Ties | None = None
    batch: Count = 128


class FinetuneSettings(BaseRunSettings):
    """Everything about one run of fine-tuning, as its ``config.yaml`` records it.

    Attributes:
        seed: of the head, the sampling and the augmentation.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataSettings
    model: ModelSettings
    loss: LossSettings
    sampler: SamplerSettings
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings
    test: TestSettings = TestSettings()

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneSettings:
        if self.optim.clip_scaled and self.train.precision != "fp16":
            raise ValueError("optim.clip_scaled is about fp16; set train.precision=fp16")
        resize = self.test.resize
        if resize is not None and resize < self.model.size:
            raise ValueError(f"test.resize={resize} is smaller than model.size={self.model.size}")
        return self


CONFIGS = Configs(
    "retrieval", lambda values, source: parse(FinetuneSettings, values, source=source)
)
load_settings = CONFIGS.load
