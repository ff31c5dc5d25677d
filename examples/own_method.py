"""A method of one's own: SimCLR in 40 lines, trained by `hcl pretrain` like the others.

Shows the interface of a method: its settings, the crops it needs, its encoder, and the loss of a
batch. A `KeyedMethod` also says how queries and keys are encoded, and can then carry the HCL
branch (the `hcl:` settings). Prints the settings that were parsed and the losses of some steps.
To make the method permanent, move the class to a file in `pretrain/methods/`.

    python examples/own_method.py [STEPS]
"""

import sys
import tempfile
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

import hcl
from pretrain.data.plan import Crop, ViewPlan
from pretrain.losses import info_nce_in_batch
from pretrain.methods.base import Context, KeyedMethod, Losses, MethodSettings, Metrics, register
from pretrain.models import Encoder


class SimCLRSettings(MethodSettings):
    """Every attribute can be set as `method.NAME=VALUE`; unknown names are refused."""

    temperature: float = 0.5


@register("my_simclr")
class SimCLR(KeyedMethod):
    """SimCLR (arXiv 2002.05709): two crops of an object, the rest of the batch as negatives."""

    settings_class = SimCLRSettings

    def __init__(self, settings: SimCLRSettings, context: Context) -> None:
        super().__init__()
        self.settings, self.network = settings, Encoder(context.encoder)
        crops = (Crop("one", "object", True), Crop("two", "object", True))  # True: random part
        self.plan = ViewPlan(context.size, crops)

    view_plan = property(lambda self: self.plan)
    encoder = property(lambda self: self.network)
    encoder_prefix = "network."  # of its tensors in the checkpoint

    def encode_query(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D), with gradient."""
        return self.network(images).float()

    @torch.no_grad()
    def encode_key(self, images: Tensor, view: int) -> Tensor:
        """The keys that the HCL branch contrasts its queries with: here from the same network."""
        return self.encode_query(images)

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """Loss terms, already weighted, and values for the log."""
        one, two = (F.normalize(self.encode_query(views[name]), dim=1) for name in ("one", "two"))
        loss = info_nce_in_batch(one, two, temperature=self.settings.temperature)
        return {"simclr": loss}, {"agreement": (one * two).sum(1).mean().detach()}


steps = sys.argv[1] if len(sys.argv) > 1 else "20"
work = tempfile.mkdtemp()
hcl.main(f"data scenes -o {work}/scenes --images 48 --val 1 --size 96 --workers 1".split())
data = f"data.annotations={work}/scenes/annotations/instances_train.json"
words = f"{data} data.images={work}/scenes/train output={work}/run train.steps={steps}"
short = ["train.log_every=5", "optim.batch_size=32", "optim.warmup_steps=0", "hcl.queue=12"]
method = "method={name: my_simclr, temperature: 0.3}"
# The other settings of the HCL branch come from the preset; hcl.weight=0 leaves the branch out.
sys.exit(hcl.main(["pretrain", "quickstart_r10", *words.split(), *short, method]))
