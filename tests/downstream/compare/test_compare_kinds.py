"""Results that are not alike: other metrics, unfinished runs, several processes, bad folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hcl
from downstream.compare import cost, versus
from downstream.compare.curves import category_figures, training_figures
from downstream.compare.figures import seed_curves
from downstream.compare.significance import analyze
from downstream.results.collect import collect
from downstream.results.result import Result, read_result, write_result
from downstream.results.table import sheet, warnings
from pretrain.core.errors import InputError

pytest.importorskip("pycocotools", reason="needs pycocotools")

from saved_results import write_detection, write_truth


def quiet(line: str) -> None:
    pass


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "instances_val.json"
    write_truth(path)
    return path


def measured_by(folder: Path, run: str, annotations: Path, metric: str | None, seed: int) -> None:
    said = {} if metric is None else {"metric": metric}
    write_detection(folder, run, annotations, skill=0.4 + 0.1 * seed, seed=seed, **said)
    result = read_result(folder)
    single = {"bbox": {"disc": 10.0 * seed, "box": 20.0}}
    write_result(
        result.model_copy(update={"artifacts": {**result.artifacts, "by_category": single}}), folder
    )


@pytest.mark.parametrize(
    ("metric", "words"), [("voc07", "VOC 2007"), ("voc", "VOC since 2010"), ("lvis", "LVIS")]
)
def test_coco_bootstrap_is_for_cocos_metric_alone(tmp_path, annotations, metric, words):
    for seed, name in enumerate(("plain", "better"), 1):
        measured_by(tmp_path / "runs" / name, name, annotations, metric, seed)
    found = collect([tmp_path / "runs"])
    analysis = analyze(found, resamples=20, say=quiet)
    assert not analysis.intervals
    assert not analysis.pairs
    assert not analysis.curves
    assert len(analysis.notes) == 2
    assert all(f"the metric of {words}" in note for note in analysis.notes)
    # What the result itself says is still shown.
    (figure,) = category_figures(found, analysis)
    assert figure.caption == "plain less better, box AP, the 1 largest of 2 categories"
    assert "disc -10.0" in figure.svg


def test_each_metric_has_its_own_published_rows_and_best(tmp_path, annotations):
    for seed, metric in enumerate(("voc07", "lvis", "coco"), 1):
        measured_by(tmp_path / "runs" / metric, metric, annotations, metric, seed)
    found = collect([tmp_path / "runs"])
    own = {one.benchmark.metric: list(one.own) for one in versus.versus(found, "all") if one.own}
    assert own == {"coco": ["coco"], "voc07": ["voc07"]}
    table = sheet(found)
    assert not any(cell.best for _, cells in table.rows for cell in cells)
    assert any("protocols differ in metric: coco" in line for line in warnings(found))
    analysis = analyze(found, resamples=20, say=quiet)
    assert {row for row, _ in analysis.intervals} == {"coco"}


def test_results_without_a_metric_go_by_their_set(tmp_path):
    voc = tmp_path / "voc_2007_test.json"
    write_truth(voc)
    measured_by(tmp_path / "runs", "old", voc, None, 1)
    assert "VOC 2007" in analyze(collect([tmp_path / "runs"]), resamples=5, say=quiet).notes[0]


def test_unfinished_runs_are_named(tmp_path, annotations, capsys):
    runs = tmp_path / "runs"
    write_detection(runs / "good", "good", annotations, skill=0.5, seed=0)
    (runs / "begun").mkdir()
    (runs / "begun/fingerprint.txt").write_text("x")
    for name, state in (("stopped", "interrupted"), ("alone", "finished")):
        (runs / name).mkdir()
        record = {"name": name, "state": state, "step": 3, "total_steps": 9}
        (runs / name / "run.json").write_text(json.dumps(record))
        (runs / name / "config.yaml").write_text("seed: 0\n")
    output = ["--output", str(tmp_path / "out"), "--resamples", "0"]
    assert hcl.main(["compare", str(runs), *output]) == 0
    printed = capsys.readouterr().out
    assert f"Warning: {runs / 'begun'}: a detection transfer was begun" in printed
    assert f"Warning: {runs / 'stopped'}: pretraining is interrupted, at step 3 of 9" in printed
    assert "Warning: alone: no result.json of any transfer" in printed
    assert "good: no result" not in printed
    (runs / "good/result.json").unlink()
    assert len(collect([runs]).unfinished) == 4


def test_nothing_but_a_begun_transfer_is_refused(tmp_path):
    (tmp_path / "fingerprint.txt").write_text("x")
    with pytest.raises(InputError, match=r"no result.json and no run"):
        collect([tmp_path])


def test_hours_count_every_process_and_a_resumed_trainings_whole(tmp_path, annotations):
    write_detection(tmp_path / "runs", "a", annotations, skill=0.5, seed=0)
    result = read_result(tmp_path / "runs")

    def hours(**facts) -> cost.Cost:
        provenance = {**result.provenance, **facts}
        write_result(result.model_copy(update={"provenance": provenance}), tmp_path / "runs")
        return cost.costs(collect([tmp_path / "runs"]))[0]

    assert hours().hours == {"detection": pytest.approx(2.0)}
    assert hours(world=8).hours == {"detection": pytest.approx(16.0)}
    # 90,000 iterations of which this process did the last.
    resumed = {"train": 100.0, "evaluation": 200.0, "iteration": 0.2}
    assert hours(seconds=resumed).hours == {"detection": pytest.approx((18000 + 200) / 3600)}
    alone = {"evaluation": 200.0, "iteration": 0.2}
    assert hours(seconds=alone).hours == {"detection": pytest.approx(200 / 3600)}
    on_cpu = hours(machine="cpu, 2 cores, x86_64")
    assert (on_cpu.unit, on_cpu.device) == ("process-hours", "cpu, 2 cores")
    assert hours(machine=None).unit == "device-hours"


def test_hours_of_a_fine_tuning_for_retrieval(tmp_path):
    record = {"name": "cub", "task": "metric learning", "step": 50, "starts": [{"world": 2}]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "config.yaml").write_text("sampler: {classes: 100, samples: 9}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 50, "images_per_s": 450.0}\n')
    (one,) = cost.costs(collect([tmp_path]))
    assert one.hours == {"retrieval": pytest.approx(50 * 900 / 450 * 2 / 3600)}


def test_seeds_are_thin_lines_and_a_mean(tmp_path):
    write_result(Result(task="retrieval", run="a", metrics={}), tmp_path / "a")
    found = collect([tmp_path])
    curves = [("a", ([1, 2, 3], [4.0, 3.0, 2.0])), ("a", ([1, 2], [2.0, 1.0]))]
    (figure,) = seed_curves(found, "Loss", "loss", [(curves, "")])
    assert figure.caption == "Loss; thin: seeds, thick: their mean"
    assert "a from 3 to 2" in figure.svg, "over the steps that all have"
    assert figure.rows == ("a",)
    (alone,) = seed_curves(found, "Loss", "loss", [(curves[:1], "")])
    assert alone.caption == "Loss"
    assert seed_curves(found, "Loss", "loss", [([], "")]) == []


def test_a_detectors_training_is_shown(tmp_path, annotations):
    for seed in range(2):
        folder = tmp_path / "runs" / f"{seed}"
        write_detection(folder, f"a-seed{seed}", annotations, skill=0.5, seed=seed)
        result = read_result(folder)
        artifacts = {**result.artifacts, "curve": "metrics.json"}
        write_result(result.model_copy(update={"artifacts": artifacts}), folder)
        lines = [{"iteration": n, "total_loss": 3 - n / 100, "bbox/AP": n / 10} for n in (19, 39)]
        lines.append({"iteration": 40, "segm/AP": 1.0})
        (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = training_figures(collect([tmp_path / "runs"]))
    assert [figure.caption.partition(";")[0] for figure in figures] == [
        "Detector's training loss",
        "Box AP while the detector trains",
    ], "the mask AP of the end alone is no curve"


def test_folders_that_cannot_be_used_are_named(tmp_path, annotations, capsys):
    write_detection(tmp_path / "runs", "a", annotations, skill=0.5, seed=0)
    (tmp_path / "file").write_text("")
    arguments = ["compare", str(tmp_path / "runs"), "--resamples", "0", "--output"]
    for bad in ("file", "file/x", "file/x/y"):
        assert hcl.main([*arguments, str(tmp_path / bad)]) == 2
        assert f"{bad}: is or lies in a file; name a folder" in capsys.readouterr().err
    (tmp_path / "out/report.html").mkdir(parents=True)
    assert hcl.main([*arguments, str(tmp_path / "out")]) == 2
    assert "out: cannot be written (Is a directory)" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"result.json: cannot be written"):
        write_result(Result(task="detection", run="a", metrics={}), tmp_path / "file")
    (tmp_path / "runs/result.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"result.json: not a result file"):
        collect([tmp_path / "runs"])
