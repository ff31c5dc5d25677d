"""`hcl analyze sweep`: grouping, what may differ, and metrics of the run's own geometry."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import yaml
from finetune_parts import changed, settings_of

import hcl
from downstream.analysis import draw
from downstream.analysis.finished_run import read_finished
from downstream.results.analysis_record import read_record
from downstream.results.result import Result, write_result
from pretrain.core.config import dump_yaml

BASE = {
    "data": {"name": "folder", "root": "/data/set"},
    "model": {"backbone": "vit_tiny_patch16_224", "dim": 8},
    "sampler": {"classes": 3, "samples": 2},
    "train": {"steps": 4},
}


def finished(folder: Path, recall: float, seed: int = 0, protocol: dict | None = None, **more):
    """The files that a finished run leaves."""
    loss = {"geometry": "ball", **more.pop("loss", {})}
    values = changed({**BASE, "output": str(folder), "seed": seed, "loss": loss}, **more)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(settings_of(values)))
    rankings = {"sphere": ("euclidean",), "ball": ("euclidean", "hyperbolic")}
    places = rankings.get(loss["geometry"], ("euclidean", "hyperbolic", "fused"))
    metrics = {f"recall/head/{name}@1": recall + n / 10 for n, name in enumerate(places)}
    facts = {"data": "folder", "data_fingerprint": "a" * 64, "dim": 8}
    write_result(
        Result(
            task="retrieval",
            run=folder.name,
            metrics=metrics,
            protocol={**facts, "ks": [1], **(protocol or {})},
            provenance={"step": 4, "checkpoint": str(folder / "checkpoints/step_4.pt")},
        ),
        folder,
    )
    return folder


def sweep(*words: object) -> int:
    return hcl.main(["analyze", "sweep", *map(str, words)])


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Three seeds at each of three temperatures."""
    return [
        finished(
            tmp_path / f"t{t:g}-seed{seed}",
            0.3 + 0.1 * place + 0.01 * seed**2,
            seed,
            loss={"temperature_hyperbolic": t},
        )
        for place, t in enumerate((0.05, 0.2, 0.8))
        for seed in range(3)
    ]


def test_mean_and_deviation_over_seeds(runs, tmp_path, monkeypatch):
    scales = []
    monkeypatch.setattr(draw, "logarithmic", lambda axis: scales.append(axis.axis_name))
    key, metric = "loss.temperature_hyperbolic", "recall/head/hyperbolic@1"
    words = ("--over", key, "--metric", metric, "--output", tmp_path / "a")
    assert sweep(*reversed(runs), *words) == 0
    record = read_record(tmp_path / "a")
    listed = record.values[metric]
    assert list(listed) == [f"{key} = {t}" for t in (0.05, 0.2, 0.8)]
    for place, each in enumerate(listed.values()):
        results = [0.4 + 0.1 * place + extra for extra in (0, 0.01, 0.04)]
        assert each["mean"] == pytest.approx(statistics.fmean(results))
        assert each["deviation"] == pytest.approx(statistics.stdev(results))
        assert each["runs"] == 3
    assert len(record.sources) == 9
    assert scales == ["x"]  # 0.05 to 0.8 spans more than a decade
    assert not record.warnings
    page = (tmp_path / "a/report.html").read_text()
    assert '<figure id="sweep"' in page
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        *("analysis.json", "report.html", "sweep.png", "sweep.svg")
    }


def test_axis_is_linear_within_a_decade(runs, tmp_path, monkeypatch):
    scales = []
    monkeypatch.setattr(draw, "logarithmic", lambda axis: scales.append(axis.axis_name))
    key = "loss.temperature_hyperbolic"
    assert sweep(*runs[3:], "--over", key, "--output", tmp_path / "a") == 0
    assert scales == []


def test_runs_that_differ_in_more_are_refused(runs, tmp_path, capsys):
    words = ("--over", "loss.temperature_hyperbolic", "--output", tmp_path / "a")
    other = finished(tmp_path / "wide", 0.5, model={"dim": 16}, optim={"lr": 1e-4})
    assert sweep(*runs, other, *words) == 2
    told = capsys.readouterr().err
    assert "model.dim: 8, 16" in told
    assert "optim.lr: 3e-05, 0.0001" in told
    assert "--allow" in told
    assert not (tmp_path / "a").exists()
    assert sweep(*runs, other, *words, "--allow", "model.dim", "optim.lr") == 0
    data = finished(tmp_path / "data", 0.5, protocol={"data_fingerprint": "b" * 64})
    assert sweep(*runs, data, *words, "--fresh") == 2
    assert "protocol.data_fingerprint" in capsys.readouterr().err


def test_a_setting_of_the_protocol_may_be_swept(tmp_path):
    made = [
        finished(tmp_path / f"d{dim}", 0.5, model={"dim": dim}, protocol={"dim": dim})
        for dim in (8, 16)
    ]
    assert sweep(*made, "--over", "model.dim", "--output", tmp_path / "a") == 0


def test_each_geometry_over_its_own_temperature(tmp_path, capsys):
    made = [
        finished(tmp_path / f"s{t}", 0.3, loss={"geometry": "sphere", "temperature_spherical": t})
        for t in (0.1, 0.4)
    ]
    # What a geometry does not look at may differ.
    made += [
        finished(
            tmp_path / f"h{t}",
            0.3,
            loss={"temperature_hyperbolic": t, "temperature_spherical": 0.7, "curvature": 0.3},
        )
        for t in (0.1, 0.4)
    ]
    words = ("--over", "loss.temperature", "--by", "loss.geometry", "--output", tmp_path / "a")
    assert sweep(*made, *words) == 0
    record = read_record(tmp_path / "a")
    own = "recall/head/own@1"
    assert record.values[f"sphere / {own}"]["loss.temperature = 0.1"]["mean"] == pytest.approx(0.3)
    assert record.values[f"ball / {own}"]["loss.temperature = 0.4"]["mean"] == pytest.approx(0.4)
    assert "single run" in record.warnings[0]
    mixed = finished(tmp_path / "m", 0.3, loss={"geometry": "mixed"})
    assert sweep(*made, mixed, *words, "--allow", "loss.curvature", "--fresh") == 2
    assert "no one temperature" in capsys.readouterr().err


def test_faults_are_told_in_a_line(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    bare = finished(tmp_path / "bare", 0.5)
    (bare / "config.yaml").unlink()
    output = ("--output", tmp_path / "a")
    for words, told in (
        ((*runs, "--over", "temperature_hyperbolic"), "did you mean loss.temperature_hyperbolic"),
        ((*runs, "--over", "loss.curvature"), "differ in more than loss.curvature"),
        (
            (*runs[:2], "--over", "loss.curvature", "--metric", "recall/head/fused@1"),
            "it has recall/head/euclidean@1",
        ),
        ((tmp_path / "empty", "--over", "seed"), "not finished"),
        ((tmp_path / "none", "--over", "seed"), "no such run"),
        ((tmp_path, "--over", "seed"), "results in it; name the folder of one"),
        ((bare, "--over", "seed"), "no config.yaml"),
        ((runs[0], runs[0], "--over", "seed"), "name each run once"),
        (
            (*runs[:2], "--over", "seed", "--allow", "los.weight"),
            "no run has a setting 'los.weight'",
        ),
    ):
        assert sweep(*words, *output) == 2, words
        assert told in capsys.readouterr().err, words


def test_settings_that_change_nothing_may_differ(tmp_path):
    made = []
    for place, recall in enumerate((0.4, 0.5)):
        run = finished(tmp_path / f"run{place}", recall)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"] |= {"prefetch": place, "index": f"index{place}"}
        config["train"] |= {"keep_every": place, "monitor": bool(place)}
        config |= {"hcl": {"statistics": place}, "probe": {"every": place, "k": place}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        made.append(read_finished(run))
    assert made[0].acting == made[1].acting
    assert made[0].settings != made[1].settings


def test_pretraining_runs_by_their_retrieval_result(tmp_path):
    made = []
    for place, c in enumerate((0.01, 0.5)):
        run = tmp_path / f"pre{c}"
        (run / "checkpoints").mkdir(parents=True)
        config = f"seed: {place}\noutput: {run}\nhcl:\n  curvature: {c}\n"
        (run / "config.yaml").write_text(config)
        write_result(
            Result(
                task="retrieval",
                run=run.name,
                metrics={"recall/head/hyperbolic@1": 0.2 + place / 10},
                protocol={"annotations_sha256": "c" * 64},
                provenance={"checkpoint": str(run / "checkpoints/step_7.pt")},
            ),
            tmp_path / f"retrieval{c}/inner",
        )
        made.append(tmp_path / f"retrieval{c}")
    metric = "recall/head/hyperbolic@1"
    words = ("--over", "hcl.curvature", "--metric", metric, "--output", tmp_path / "a")
    assert sweep(*made, *words) == 0
    means = [each["mean"] for each in read_record(tmp_path / "a").values[metric].values()]
    assert means == pytest.approx([0.2, 0.3])
    assert read_finished(made[0]).source.fingerprint == "c" * 64


def test_settings_that_are_no_numbers_are_categories(tmp_path):
    made = [
        finished(tmp_path / f"c{n}", 0.3 + n / 10, loss={"clip_radius": clip})
        for n, clip in enumerate((None, 2.3))
    ]
    assert sweep(*made, "--over", "loss.clip_radius", "--output", tmp_path / "a") == 0
    values = read_record(tmp_path / "a").values["recall/head/own@1"]
    assert list(values) == ["loss.clip_radius = 2.3", "loss.clip_radius = None"]


def test_a_record_of_another_schema_is_told(runs, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    words = (*runs, "--over", "loss.temperature_hyperbolic", "--output", tmp_path / "a")
    (tmp_path / "a/analysis.json").write_text(json.dumps({"kind": "sweep"}))
    assert sweep(*words) == 2
    assert "not an analysis of schema 1" in capsys.readouterr().err
    assert sweep(*words, "--fresh") == 0


def test_ticks_of_logarithmic_axes():
    assert [draw.power(v) for v in (1e-9, 0.01, 0.5, 1.0, 1000.0, 1e5)] == [
        *("10⁻⁹", "0.01", "0.5", "1", "1000", "10⁵")
    ]
