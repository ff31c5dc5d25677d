"""The settings of a pretraining run: read, overridden, checked, all faults at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from pretrain.core.config import Configs
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings, parse
from pretrain.data.augment import AugmentSettings
from pretrain.data.views import ViewSettings
from pretrain.datasets.source import DataSettings
from pretrain.methods.base import MethodSettings, parse_method
from pretrain.methods.hcl.branch import HCLSettings
from pretrain.mixed_precision import Precision
from pretrain.models import EncoderSettings
from pretrain.probes.settings import ProbeSettings

Count = Annotated[int, Field(ge=1)]


class OptimSettings(Settings):
    """The optimizer and its rate.

    Attributes:
        optimizer: ``sgd``; ``lars``, its layer-wise scaled form for large batches (You et al.
            2017, arXiv 1708.03888; needs timm), which leaves parameters without decay unscaled;
            ``adamw``.
        batch_size: global, over all processes.
        accumulate: parts in which each process computes its share of a step, one after the other,
            so that a large batch fits a small device. Batch norm and the shuffling of keys see a
            part at a time; running statistics, queues and the momentum encoder move once a step.
        lr: peak rate for ``batch_size``, or for ``base_batch`` where that is given.
        base_batch: the batch that ``lr`` was tuned for.
        scale_lr: ``linear``: the rate used is lr·batch_size/base_batch. ``none``: it is lr, and a
            warning says so where the two batches differ.
        momentum: of sgd and lars.
        betas: of adamw.
        trust: LARS's η.
        weight_decay: the official codes of MoCo, DenseCL, ORL and HCL decay all parameters.
        decay: ``all``, or ``weights``: not biases and not batch norm, as in BYOL with LARS.
        schedule: ``cosine`` to ``final_lr``, ``step`` or ``constant``.
        schedule_per: change the rate every ``step``, or every ``epoch`` as the official codes do.
        milestones: epochs at which ``step`` multiplies the rate by ``gamma``.
        gamma: see there.
        final_lr: share of the rate that cosine ends with.
        warmup_steps: linear warm-up; or give ``warmup_epochs``.
        warmup_epochs: likewise.
        warmup_from: share of the rate it begins with; at 0 the first step is already one
            ``warmup_steps``-th of the way.
        clip_norm: limit on the gradient's global norm; None: no limit.
    """

    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    batch_size: Count = 256
    accumulate: Count = 1
    lr: Annotated[float, Field(gt=0)] = 0.03
    base_batch: Count | None = None
    scale_lr: Literal["none", "linear"] = "none"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    trust: float = 0.001
    weight_decay: float = 1e-4
    decay: Literal["all", "weights"] = "all"
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    schedule_per: Literal["step", "epoch"] = "epoch"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    warmup_from: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: float | None = None

    @property
    def peak_lr(self) -> float:
        """The rate that the schedule starts from."""
        if self.scale_lr == "none" or self.base_batch is None:
            return self.lr
        return self.lr * self.batch_size / self.base_batch

    @model_validator(mode="after")
    def _consistent(self) -> OptimSettings:
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("give at most one of 'warmup_steps' and 'warmup_epochs'")
        if self.scale_lr == "linear" and self.base_batch is None:
            raise ValueError("scale_lr=linear needs 'base_batch', the batch that lr is for")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("schedule=step and 'milestones' need each other")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("'milestones' must grow")
        return self


class LoopSettings(Settings):
    """How long a run trains, and what it writes.

    Attributes:
        epochs: passes over the data; or give ``steps``.
        steps: number of steps; 0 writes the network as it is before training, a baseline.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of torch on the CPU, per process; None: torch's own choice.
        log_every: steps between logged lines.
        checkpoint_every: steps between checkpoints; a node failure loses at most that much.
        keep: how many of the newest checkpoints stay.
        keep_every: steps whose multiples stay for good.
        tensorboard: write TensorBoard event files.
    """

    epochs: Count | None = None
    steps: Annotated[int, Field(ge=0)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None
    log_every: Count = 10
    checkpoint_every: Count = 500
    keep: Count = 2
    keep_every: Count | None = None
    tensorboard: bool = True

    @model_validator(mode="after")
    def _one_length(self) -> LoopSettings:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of 'epochs' and 'steps'")
        return self

    def total_steps(self, epoch_steps: int) -> int:
        """Steps of the whole run."""
        return self.steps if self.steps is not None else (self.epochs or 0) * epoch_steps


class TrainSettings(LoopSettings):
    """The loop of pretraining.

    Attributes:
        precision: of the encoders' forwards; the losses are float32 whatever this is. ``auto``:
            bf16 where the device has it natively (CPUs with AMX or AVX512-BF16, GPUs of compute
            capability 8.0 or more), else fp32. A run keeps the one it began with, on whichever
            machine it is resumed.
        channels_last: memory format of networks and views.
        compile: torch.compile the encoders.
        deterministic: forbid algorithms whose result depends on the run; slower on CUDA.
        monitor: on logged steps, whether the embeddings collapse; not where they are compiled.
    """

    precision: Precision | Literal["auto"] = "auto"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    monitor: bool = True


class BaseRunSettings(Settings):
    """What the settings of every command that trains have.

    Attributes:
        output: the run folder.
        name: the row of tables; None: the folder's name.
        seed: of initialization, data order, views, augmentation and shuffling.
    """

    output: str
    name: str | None = None
    seed: int = 0
    train: LoopSettings


class RunSettings(BaseRunSettings):
    """Everything about one run of pretraining, as its ``config.yaml`` records it.

    Attributes:
        probe: k-NN classification during the run; None: none.
    """

    data: DataSettings
    views: ViewSettings = ViewSettings()
    augment: AugmentSettings = AugmentSettings()
    model: EncoderSettings = EncoderSettings()
    method: SerializeAsAny[MethodSettings]
    hcl: HCLSettings | None = None
    optim: OptimSettings = OptimSettings()
    train: TrainSettings
    probe: ProbeSettings | None = None

    @property
    def method_name(self) -> str:
        """As tables call it: the method, with ``+hcl`` where the branch is on."""
        with_branch = self.hcl is not None and self.hcl.weight > 0
        return f"{self.method.name}+hcl" if with_branch else self.method.name


def from_values(values: dict[str, Any], source: str) -> RunSettings:
    """Settings from nested plain values.

    Raises:
        InputError: naming every fault.
    """
    method = values.get("method")
    if not isinstance(method, dict):
        raise InputError(f"{source}: missing section 'method' with a 'name'")
    faults: list[str] = []
    parsed: MethodSettings | None = None
    try:
        parsed = parse_method(method, source=source)
    except InputError as error:
        faults.append(str(error))
    try:
        checked = {**values, "method": parsed or MethodSettings(name="?")}
        settings = parse(RunSettings, checked, source=source)
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return settings


CONFIGS = Configs("pretrain", from_values)
load_settings = CONFIGS.load
