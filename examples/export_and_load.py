"""A pretrained backbone, exported and loaded in timm and in detectron2 without any of our code.

Shows the two files and what each library needs to read them. Without RUN it trains a ResNet-18 for
a few steps first (RUN must have a ResNet of torchvision for detectron2). Prints the feature shapes
of both libraries, and the largest difference between their last feature maps: both compute the
same function, so it is 0 or rounding.

    python examples/export_and_load.py [RUN]
"""

import json
import sys
import tempfile
from pathlib import Path

import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from safetensors import safe_open

import hcl

work = Path(tempfile.mkdtemp())
if len(sys.argv) > 1:
    run = sys.argv[1]
else:
    run = f"{work}/run"
    hcl.main(f"data scenes -o {work}/scenes --images 32 --val 1 --size 96 --workers 1".split())
    data = f"data.annotations={work}/scenes/annotations/instances_train.json"
    small = "model.backbone=resnet18 model.options={} optim.batch_size=16 method.norm_group=8"
    words = f"{data} data.images={work}/scenes/train output={run} {small} train.steps=3"
    assert hcl.main(["pretrain", "quickstart_r10", *words.split()]) == 0

for library, file in (("timm", "timm.safetensors"), ("detectron2", "detectron2.pth")):
    assert hcl.main(["export", run, "--to", library, "-o", f"{work}/{file}"]) == 0

# timm: the header of the file says how to build the network and how to scale pixels.
with safe_open(f"{work}/timm.safetensors", "pt") as file:
    header = file.metadata()
in_timm = timm.create_model(
    header["architecture"],
    checkpoint_path=f"{work}/timm.safetensors",
    pretrained_cfg=json.loads(header["pretrained_cfg"]),
    **json.loads(header["model_args"]),
).eval()

# detectron2: the header holds the configuration keys that belong to the weights.
settings = torch.load(f"{work}/detectron2.pth", weights_only=True)["hcl"]["config"]
config = get_cfg()
config.merge_from_list([word for pair in settings.items() for word in pair])
config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
in_detectron2 = build_resnet_backbone(config, ShapeSpec(channels=3)).eval()
DetectionCheckpointer(torch.nn.ModuleDict({"backbone": in_detectron2})).load(
    f"{work}/detectron2.pth"
)

images = torch.randn(2, 3, 128, 128)  # already normalized
with torch.no_grad():
    features, maps = in_timm.forward_features(images), in_detectron2(images)
print("timm:", tuple(features.shape))
print("detectron2:", {name: tuple(value.shape) for name, value in maps.items()})
print(f"largest difference: {(features - maps['res5']).abs().max().item():.1e}")
