"""Embeddings of object crops, and their Recall@K on the sphere, in the ball, and in both at once.

Shows how to load the encoder of a pretraining run, embed the objects of a COCO-format data set,
and search neighbors exactly. Without RUN it trains a network for 30 steps first. Prints one line
per geometry: the share of objects that have one of their own category among the K nearest others.

    python examples/recall_three_geometries.py [RUN ANNOTATIONS IMAGES]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

import hcl
from downstream.retrieval import recall_at_k
from downstream.retrieval.neighbors import nearest
from downstream.retrieval.recall import label_codes, recall_of
from downstream.retrieval.spaces import FusedRanking, ball, sphere
from pretrain.datasets.source import DataSettings, open_index
from pretrain.geometry.poincare import to_ball
from pretrain.pretrained import load_pretrained

KS = (1, 5, 10)
if len(sys.argv) > 1:
    run, annotations, images = map(Path, sys.argv[1:])
else:
    work = Path(tempfile.mkdtemp())
    hcl.main(f"data scenes -o {work}/scenes --images 48 --val 1 --size 96 --workers 1".split())
    annotations, images = work / "scenes/annotations/instances_train.json", work / "scenes/train"
    data = [f"data.annotations={annotations}", f"data.images={images}", f"output={work}/run"]
    small = ["optim.batch_size=32", "train.steps=30", "train.tensorboard=false"]
    assert hcl.main(["pretrain", "quickstart_r10", *data, *small]) == 0
    run = work / "run"

pretrained = load_pretrained(run)
description = pretrained.description
index = open_index(DataSettings(annotations=str(annotations), images=str(images)))

crops, labels = [], []
for row in range(len(index)):
    picture = Image.open(index.path(row)).convert("RGB")
    for box, label in zip(index.boxes(row), index.labels(row), strict=True):
        if min(box[2:] - box[:2]) >= 16:  # pixels; smaller objects cannot be recognized
            crop = picture.crop(tuple(box.tolist())).resize((description.size, description.size))
            crops.append(transforms.to_dtype(transforms.pil_to_tensor(crop), scale=True))
            labels.append(int(label))
batch = transforms.normalize(torch.stack(crops), list(description.mean), list(description.std))
with torch.no_grad():
    embeddings = torch.cat([pretrained.encoder(part) for part in batch.split(256)])

c = description.curvature or 0.05
points = to_ball(embeddings.double(), c, clip=description.clip_radius)
codes = label_codes(labels, len(labels))
both = FusedRanking(sphere(embeddings), ball(points, c), c, spherical=1 / 0.1, hyperbolic=1 / 0.2)
found = {
    "sphere": recall_at_k(embeddings, labels, KS),
    "ball": recall_at_k(points, labels, KS, geometry="hyperbolic", c=c),
    "both": recall_of(nearest(both, max(KS)), codes, KS),
}
print(f"{len(labels)} objects of {len(np.unique(labels))} categories, step {pretrained.step}")
for geometry, recall in found.items():
    print(f"{geometry:<7}" + "  ".join(f"R@{k} {value:.3f}" for k, value in recall.items()))
