"""Time of the paired bootstrap at the size of COCO val2017, and of every evaluation backend.

    PYTHONPATH=. python benchmarks/bootstrap.py [--resamples 1000] [--threads 2]

Writes benchmarks/results/bootstrap_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from simulated import detect, make_truth
from surroundings import surroundings

from downstream.compare.bootstrap import sampled
from downstream.compare.matches import match
from downstream.detection.coco.backends import available
from downstream.detection.coco.evaluate import evaluate
from downstream.results.resampling import average, difference, weights_of

RESULTS = Path(__file__).parent / "results" / "bootstrap_cpu.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    packages = ("numpy", "pycocotools", "faster-coco-eval", "hotcoco")
    record: dict[str, object] = {"surroundings": surroundings(packages=packages)}

    rng = np.random.default_rng(0)
    # val2017 has 36,781 objects in 5,000 images; a detector of Mask R-CNN's kind saves some 40
    # detections an image.
    truth = make_truth(arguments.images, arguments.categories, 7.4, rng)
    runs = [detect(truth, skill, 32, rng) for skill in (0.55, 0.5)]
    record["size"] = {
        "images": arguments.images,
        "categories": arguments.categories,
        "objects": len(truth["annotations"]),
        "detections": [len(run) for run in runs],
        "resamples": arguments.resamples,
        "threads": arguments.threads,
    }
    evaluation = {}
    ap = {}
    for backend in available():
        start = time.perf_counter()
        ap[backend] = evaluate(truth, runs[0], ("bbox",), backend)["bbox"].metrics["AP"]
        evaluation[backend] = round(time.perf_counter() - start, 2)
    record["evaluation_seconds"] = evaluation
    record["evaluation_ap"] = ap

    start = time.perf_counter()
    matches = [match(truth, run) for run in runs]
    record["matching_seconds_a_run"] = round((time.perf_counter() - start) / 2, 2)
    start = time.perf_counter()
    weights = weights_of(arguments.images, arguments.resamples, 0)
    samples = [sampled(m, weights, threads=arguments.threads) for m in matches]
    record["resampling_seconds_a_run"] = round((time.perf_counter() - start) / 2, 2)
    record["ap_identity_less_evaluator"] = float(samples[0]["AP"][0]) - ap["pycocotools"]
    record["difference"] = {
        name: vars(difference(average(samples[:1])[name], samples[1][name])) for name in samples[0]
    }
    start = time.perf_counter()
    every = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    sampled(matches[0], weights, every, threads=arguments.threads)
    record["resampling_seconds_a_run_all_sizes"] = round(time.perf_counter() - start, 2)
    record["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
