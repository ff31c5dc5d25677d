"""How often the bootstrap's 95 % interval holds the true difference of two detectors' AP.

    PYTHONPATH=. python benchmarks/bootstrap_coverage.py [--trials 400]

The truth is known because the images are: two simulated detectors are run on a very large
population of images, and the difference of their APs on all of it is the true one. A trial draws
a small test set from the population, and asks whether the interval computed of that set alone
holds the true difference. Writes benchmarks/results/bootstrap_coverage.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from simulated import detect, make_truth
from surroundings import surroundings

from downstream.compare.bootstrap import sampled
from downstream.compare.matches import CategoryMatches, Matches, match
from downstream.results.resampling import Difference, average, difference, weights_of

RESULTS = Path(__file__).parent / "results" / "bootstrap_coverage.json"


def subset(matches: Matches, chosen: npt.NDArray[np.int64]) -> Matches:
    """The same matches on some of the images."""
    place = np.full(len(matches.images), -1)
    place[chosen] = np.arange(len(chosen))
    categories = []
    for category in matches.categories:
        kept = place[category.image] >= 0
        categories.append(
            CategoryMatches(
                place[category.image[kept]],
                category.score[kept],
                category.hit[..., kept],
                category.counts[..., kept],
                category.objects[:, chosen],
            )
        )
    return Matches(tuple(chosen.tolist()), matches.names, tuple(categories))


def paired(
    first: Sequence[Matches],
    second: Sequence[Matches],
    *,
    resamples: int = 1000,
    seed: int = 0,
    measures: Sequence[str] = ("AP", "AP50", "AP75"),
) -> dict[str, Difference]:
    """First less second, by measure. Several runs on a side are seeds: their APs are averaged.

    All matches must be of the same images, ``Matches.images``.
    """
    assert len({matches.images for matches in (*first, *second)}) == 1, "of other images"
    weights = weights_of(len(first[0].images), resamples, seed)
    sides = [
        average([sampled(matches, weights, measures) for matches in side])
        for side in (first, second)
    ]
    return {name: difference(sides[0][name], sides[1][name]) for name in measures}


def cover(
    *,
    trials: int,
    images: int,
    resamples: int,
    population: int,
    seed: int,
    skills: tuple[float, float] = (0.62, 0.55),
    categories: int = 3,
) -> dict[str, float]:
    """Coverage, and the intervals' width beside the true spread of the difference."""
    rng = np.random.default_rng(seed)
    truth = make_truth(population, categories, 5, rng)
    both = [match(truth, detect(truth, skill, 3, rng)) for skill in skills]
    once = np.ones((1, population), np.int32)
    values = [float(sampled(m, once, ("AP",))["AP"][0]) for m in both]
    true = values[0] - values[1]
    covered, below, above = 0, 0, 0
    found, widths, significant = [], [], 0
    for trial in range(trials):
        chosen = np.sort(rng.choice(population, images, replace=False))
        first, second = (subset(m, chosen) for m in both)
        result = paired([first], [second], resamples=resamples, seed=trial, measures=("AP",))["AP"]
        covered += result.low <= true <= result.high
        below += true < result.low
        above += true > result.high
        significant += result.p < 0.05
        found.append(result.value)
        widths.append(result.high - result.low)
    return {
        "trials": trials,
        "images": images,
        "categories": categories,
        "resamples": resamples,
        "population": population,
        "ap": values[0],
        "ap_of_the_other": values[1],
        "true_difference": true,
        "covered": int(covered),
        "coverage": covered / trials,
        "true_below_interval": int(below),
        "true_above_interval": int(above),
        "mean_width": float(np.mean(widths)),
        "mean_difference": float(np.mean(found)),
        "standard_deviation": float(np.std(found, ddof=1)),
        "share_with_p_below_0.05": significant / trials,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--population", type=int, default=40_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    record: dict[str, object] = {"surroundings": surroundings(packages=("numpy", "pycocotools"))}
    studies = {}
    start = time.perf_counter()
    for name, images, skills in (
        ("a difference, 200 images", 200, (0.62, 0.55)),
        ("a difference, 500 images", 500, (0.62, 0.55)),
        ("almost none, 200 images", 200, (0.6, 0.6)),
    ):
        studies[name] = cover(
            trials=arguments.trials,
            images=images,
            resamples=arguments.resamples,
            population=arguments.population,
            seed=0,
            skills=skills,
        )
        print(name, json.dumps(studies[name], indent=2), flush=True)
    record["studies"] = studies
    record["seconds"] = round(time.perf_counter() - start, 1)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
