"""Settings of the HCL branch: the official recipe, and what the ablations change."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from pretrain.core.settings import Settings
from pretrain.losses.paths import Path as LossPath

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class HCLSettings(Settings):
    """Settings of the branch; the defaults are those of the official recipe.

    The number of boxes of a scene is ``views.scene_boxes``; where boxes come from is a matter of
    the data's index (annotations or proposals).

    Attributes:
        weight: λ of ``L_euc + λ L_hyp``; 0 leaves out the branch and its forwards
            (official ``--theta-hyperbolic``).
        distance: ``hyperbolic``: -d(x, y)/T in the ball. ``euclidean``: -|u - v|/T of the raw
            projections, the paper's question what the ball is good for; ours in detail.
            ``cosine``: MoCo's form, ours. What follows on the ball is for ``hyperbolic`` alone.
        curvature: c > 0 of the ball of radius 1/√c; where it is learned, its start
            (official ``--c``).
        learn_curvature: make c a parameter (official ``--train_c``, which there reaches a part
            of the formulas only).
        curvature_bounds: what a learned c may be. Below 1e-3 the ball is flat to a percent or so
            for features of norm 5, so that c no longer changes anything; above 10 features of
            norm 1.2 already stand at the rim.
        curvature_step: largest change of log c in a step; 0.01 is a percent of c.
        riemannian_gradient: scale the gradient at the ball point by (1 - c|x|²)²/4 (official
            argument ``riemannian``).
        clip_radius: limit on the raw norm before the exponential map, or of the vectors whose
            Euclidean distance is taken; None: no limit, as published.
        decouple: let the query's gradient through the ``norm`` of its raw projection alone
            (official ``--decoupled``), through its ``direction`` alone (ours), or both: ``none``.
        temperature: divides the distance, or the cosine.
        query: which crop is the query and takes the gradient; the other is the key, queued.
            ``object`` is the reversed hierarchy.
        scene: the scene crop: the union of the object's box and others (``boxes``), or the whole
            ``image`` (ours).
        negatives: ``queue``: past keys, as published. ``batch``: the other keys of the forward's
            global batch, and no queue (ours, for methods that have none of their own).
        queue: number of negatives K.
        queue_start: ``random`` ball points, or ``empty``.
        scenes_as_negatives: encode the query crops as keys too, and add past ones, in a queue
            of their own of the same length, to the negatives. Published HCL has key crops
            only; ours. Costs one more forward without gradient.
        loss_path: which implementation of the loss against a queue, see ``pretrain.losses``.
            Where c is learned, ``plain`` or any other but ``triton``: see
            ``pretrain.losses.tangent``.
        statistics: on logged steps, log where the query encoder places scenes and objects (both
            are encoded once more, without gradient) and how hard the negatives are.
    """

    weight: float = 0.1
    distance: Literal["hyperbolic", "euclidean", "cosine"] = "hyperbolic"
    curvature: Positive = 0.05
    learn_curvature: bool = False
    curvature_bounds: tuple[float, float] = Field((1e-3, 10.0), validate_default=True)
    curvature_step: Positive = 0.01
    riemannian_gradient: bool = True
    clip_radius: float | None = None
    decouple: Literal["none", "norm", "direction"] = "none"
    temperature: float = 0.2
    query: Literal["scene", "object"] = "scene"
    scene: Literal["boxes", "image"] = "boxes"
    negatives: Literal["queue", "batch"] = "queue"
    queue: int = 65536
    queue_start: Literal["random", "empty"] = "random"
    scenes_as_negatives: bool = False
    loss_path: LossPath = "auto"
    statistics: bool = True

    @field_validator("learn_curvature")
    @classmethod
    def _in_a_ball(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("distance") in ("euclidean", "cosine"):
            raise ValueError(f"needs a ball, but hcl.distance is {info.data['distance']}")
        return value

    @field_validator("curvature_bounds")
    @classmethod
    def _around_the_start(
        cls, value: tuple[float, float], info: ValidationInfo
    ) -> tuple[float, float]:
        low, high = value
        if not 0 < low < high < math.inf:
            raise ValueError("must be two finite numbers, 0 < lowest < highest")
        start = info.data.get("curvature")
        if info.data.get("learn_curvature") and start is not None and not low <= start <= high:
            raise ValueError(f"must hold the start, hcl.curvature = {start}")
        return value

    @field_validator("clip_radius", "decouple")
    @classmethod
    def _where_norms_count(
        cls, value: float | str | None, info: ValidationInfo
    ) -> float | str | None:
        if value not in (None, "none") and info.data.get("distance") == "cosine":
            raise ValueError("has no effect where hcl.distance is cosine, which ignores norms")
        return value

    @field_validator("scenes_as_negatives")
    @classmethod
    def _with_a_queue(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("negatives") == "batch":
            raise ValueError("needs queues, but hcl.negatives is batch; use hcl.negatives=queue")
        return value

    @field_validator("loss_path")
    @classmethod
    def _can_run(cls, value: LossPath, info: ValidationInfo) -> LossPath:
        if value == "triton" and info.data.get("learn_curvature"):
            raise ValueError("gives no gradient to hcl.curvature, which is learned; use auto")
        if value == "triton" and info.data.get("distance") == "euclidean":
            raise ValueError("has no Euclidean distance; use auto")
        return value
