"""MoCo-v2 with the HCL branch, as a training loop in plain PyTorch.

Shows which parts make the method: views of boxes, two encoders, two queues, two losses. The query
of the first loss is an object crop and its key another crop of that object, on the sphere. The
query of the second loss is a scene (a union of boxes) and its key an object in it, in the ball.
Prints both losses every 10 steps; guessing among K = 256 negatives gives log(257) = 5.55.
`hcl pretrain` adds what a real run needs: batch norm that does not reveal which key belongs to
which query, learning rate schedule, resuming, several GPUs.

    python examples/moco_hcl.py [STEPS]
"""

import sys
import tempfile

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import hcl
from pretrain.data.augment import AugmentSettings
from pretrain.data.device import views
from pretrain.data.loader import build_loader
from pretrain.data.plan import Crop, ViewPlan
from pretrain.data.views import ViewSettings
from pretrain.datasets.source import DataSettings, open_index
from pretrain.geometry.poincare import to_ball
from pretrain.losses import hyperbolic_info_nce, info_nce
from pretrain.models import Queue, momentum_copy, update_momentum

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
BATCH, DIM, K, CURVATURE = 32, 64, 256, 0.05
torch.manual_seed(0)

# Data: drawn scenes with boxes. Each row of a batch is an image, each crop a view of one region.
folder = f"{tempfile.mkdtemp()}/scenes"
hcl.main(f"data scenes -o {folder} --images 48 --val 1 --size 128 --workers 1".split())
data = DataSettings(
    annotations=f"{folder}/annotations/instances_train.json",
    images=f"{folder}/train",
    index=f"{folder}/index",
)
crops = (
    Crop("query", "object", random_resized=True),
    Crop("key", "object", random_resized=True),
    Crop("scene", "scene", random_resized=False),
)
plan, augment = ViewPlan(32, crops), AugmentSettings()
steps = {"batch_size": BATCH, "seed": 0, "start_step": 0, "total_steps": STEPS}
loader = build_loader(open_index(data), plan, ViewSettings(min_box_area=100), augment, **steps)

network = torchvision.models.resnet18(num_classes=DIM)
network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, DIM))
momentum_network = momentum_copy(network)
optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
object_queue, scene_queue = Queue(K, DIM), Queue(K, DIM, length=1.0)

for step, batch in enumerate(loader, 1):
    images = views(batch, torch.device("cpu"), augment.by_view(list(plan.sides)), plan.sides)
    update_momentum(momentum_network, network, 0.99)
    with torch.no_grad():
        keys = momentum_network(images["key"])
    sphere_keys, ball_keys = F.normalize(keys, dim=1), to_ball(keys, CURVATURE, clip=2.3)
    queries = F.normalize(network(images["query"]), dim=1)
    scenes = to_ball(network(images["scene"]), CURVATURE, clip=2.3)
    euclidean = info_nce(queries, sphere_keys, object_queue.keys(), temperature=0.2)
    negatives = scene_queue.keys()
    hyperbolic = hyperbolic_info_nce(scenes, ball_keys, negatives, c=CURVATURE, temperature=0.2)
    optimizer.zero_grad()
    (euclidean + 0.1 * hyperbolic).backward()
    optimizer.step()
    object_queue.enqueue(sphere_keys)
    scene_queue.enqueue(ball_keys)
    if step % 10 == 0 or step == STEPS:
        print(f"step {step}: sphere {euclidean:.3f}, ball {hyperbolic:.3f}")
