"""`hcl compare` on saved detections: seeds, intervals, published rows, formats, costs."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import shutil
from typing import get_args

import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools")

from saved_results import CONFIG, write_detection, write_truth

import hcl
from downstream.compare import cost, versus
from downstream.compare.cli import COMMAND
from downstream.compare.significance import (
    MEASURES,
    Analysis,
    Pair,
    analyze,
    corrected,
    significance,
)
from downstream.results import text_table as sheets
from downstream.results.collect import collect, without_seed
from downstream.results.protocols import TransferProtocol, protocol_of
from downstream.results.published import Paper, load
from downstream.results.resampling import Difference
from downstream.results.result import read_result, write_result
from downstream.results.table import FLOOR, Value, cells, sheet, value_of, warnings
from downstream.results.text_table import MISSING
from pretrain.core.errors import InputError


def quiet(line: str) -> None:
    """Told of progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods, three seeds each, and their test annotations. Read only."""
    root = tmp_path_factory.mktemp("runs")
    annotations = root / "instances_val2017.json"
    write_truth(annotations)
    for seed in range(3):
        for name, skill in (("moco", 0.6), ("moco-hcl", 0.85)):
            where = root / f"{name}-{seed}"
            write_detection(where, f"{name}-seed{seed}", annotations, skill=skill, seed=seed)
    return root


@pytest.fixture(scope="module")
def analysis(folder):
    return analyze(collect([folder]), resamples=200, say=quiet)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("moco-seed0", "moco"),
        ("moco_seed=12", "moco"),
        ("moco/Seed3", "moco"),
        ("moco-seedling", "moco-seedling"),
        ("seed1", "seed1"),
        ("moco-800ep", "moco-800ep"),
    ],
)
def test_a_seed_at_the_end_is_no_part_of_the_row(name, row):
    assert without_seed(name) == row


def test_seeds_are_one_row(folder):
    found = collect([folder])
    assert found.names == ["moco", "moco-hcl"]
    value = value_of(found, "moco", "detection", "bbox/AP")
    assert value.count == 3
    assert value.deviation > 0
    assert not warnings(found)


def test_another_protocol_is_another_row(folder, tmp_path):
    for name in ("moco-0", "moco-1"):
        shutil.copytree(folder / name, tmp_path / name)
    result = read_result(tmp_path / "moco-1")
    protocol = {**result.protocol, "iterations": 24000}
    write_result(result.model_copy(update={"protocol": protocol}), tmp_path / "moco-1")
    found = collect([tmp_path])
    assert found.names == ["moco", "moco [iterations=24000]"]
    assert value_of(found, "moco", "detection", "bbox/AP").deviation is None
    (told,) = [w for w in warnings(found) if "iterations" in w]
    assert told == (
        "detection protocols differ in iterations: 90000 (moco); 24000 (moco [iterations=24000])"
    )


def test_copied_annotations_are_the_same_test_set(folder, analysis, tmp_path):
    copied = tmp_path / "copy.json"
    shutil.copy(folder / "instances_val2017.json", copied)
    for method in ("moco", "moco-hcl"):
        for seed in range(3):
            shutil.copytree(folder / f"{method}-{seed}", tmp_path / f"{method}-{seed}")
    # One seed of the first row, and all of the second: neither rows nor seeds may come apart.
    for name in ("moco-1", "moco-hcl-0", "moco-hcl-1", "moco-hcl-2"):
        result = read_result(tmp_path / name)
        provenance = {**result.provenance, "val": {"annotations": str(copied)}}
        write_result(result.model_copy(update={"provenance": provenance}), tmp_path / name)
    again = analyze(collect([tmp_path]), resamples=200, say=quiet)
    assert not again.notes
    assert again.intervals == analysis.intervals
    assert again.pairs == analysis.pairs
    assert len(again.pairs) == 1
    for key, curve in analysis.curves.items():
        assert (again.curves[key] == curve).all()


def test_intervals_pairs_curves_and_categories(folder, analysis):
    assert not analysis.notes
    (pair,) = analysis.pairs
    assert (pair.first, pair.second, pair.kind) == ("moco-hcl", "moco", "bbox")
    found = collect([folder])
    means = [value_of(found, n, "detection", "bbox/AP").mean for n in ("moco-hcl", "moco")]
    assert pair.differences["AP"].value == pytest.approx(means[0] - means[1], abs=1e-9)
    assert pair.differences["AP"].low > 0
    for name, mean in zip(("moco-hcl", "moco"), means, strict=True):
        low, high = analysis.intervals[name, "bbox/AP"]
        assert low < mean < high
        assert set(analysis.categories[name, "bbox"]) == {"disc", "box"}
    curve = analysis.curves["moco", "bbox", 50]
    assert curve.shape == (101,)
    assert (curve[:-1] >= curve[1:]).all()
    assert 100 * curve.mean() == pytest.approx(
        value_of(found, "moco", "detection", "bbox/AP50").mean, abs=1e-6
    )
    table = significance(analysis)
    assert table.rows[0][0] == "moco-hcl less moco, box"
    assert table.rows[0][1][0].best


def pair(name, *values):
    """A pair whose differences, each with an interval above 0, have these values and p-values."""
    differences = {
        measure: Difference(value, value / 2, 2 * value, p, 999)
        for measure, (value, p) in zip(MEASURES, values, strict=True)
    }
    tested = tuple(measure for measure, (value, _) in zip(MEASURES, values, strict=True) if value)
    return Pair(name, "moco", "bbox", differences, tested)


def test_p_values_are_corrected_for_all_tests_of_the_table():
    pairs = [
        pair("a", (2.0, 0.002), (3.0, 0.02), (1.0, 0.5)),
        pair("b", (2.0, 0.01), (3.0, 0.012), (0.0, 0.002)),
    ]
    analysis = Analysis(pairs=pairs)
    expected = [
        {"AP": 0.01, "AP50": 0.04, "AP75": 0.5},
        {"AP": 0.04, "AP50": 0.04},
    ]
    for found, wanted in zip(corrected(analysis), expected, strict=True):
        assert found == pytest.approx(wanted)
    table = significance(analysis)
    first, second = (cells for _, cells in table.rows)
    assert [cell.text for cell in first[1::2]] == ["0.010", "0.040", "0.500"]
    assert [cell.best for cell in first[::2]] == [True, True, False]
    assert second[5].text == MISSING
    assert not second[4].best, "too small to be tested, whatever its p-value"
    assert "corrected for the 5 tests of this table (Holm)" in table.notes[0]
    assert not table.warnings


def test_too_few_draws_for_the_tests_are_warned_of():
    pairs = [pair(str(n), *[(2.0, 0.002)] * 3) for n in range(9)]
    table = significance(Analysis(pairs=pairs))
    assert not any(cell.best for _, cells in table.rows for cell in cells)
    assert table.warnings == ["999 draws are too few for 27 tests; give --resamples 1080 or more"]


def test_rows_below_the_floor_are_not_told_apart(folder, analysis, monkeypatch):
    assert analysis.pairs[0].tested == MEASURES
    monkeypatch.setattr("downstream.compare.significance.FLOOR", 100.5)
    below = analyze(collect([folder]), resamples=40, say=quiet)
    assert below.pairs[0].tested == ()
    assert not any(cell.best for _, cells in significance(below).rows for cell in cells)
    small = [Value(0.9, None, 1), Value(0.2, None, 1)]
    assert not any(cell.best for cell in cells(small, ["", ""], floor=FLOOR))
    assert [cell.best for cell in cells(small, ["", ""])] == [True, False]
    larger = [Value(1.2, None, 1), Value(0.2, None, 1)]
    assert [cell.best for cell in cells(larger, ["", ""], floor=FLOOR)] == [True, False]


def test_no_resampling_when_none_is_asked_for(folder):
    analysis = analyze(collect([folder]), resamples=0, say=quiet)
    assert analysis.curves
    assert not analysis.pairs
    assert significance(analysis) is None


def test_what_cannot_be_compared_is_said(folder, tmp_path):
    for name in ("moco-0", "moco-1", "moco-2", "moco-hcl-0"):
        shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / "moco-0/detections.json").unlink()
    other = tmp_path / "instances_other.json"
    write_truth(other, seed=9)
    result = read_result(tmp_path / "moco-1")
    for name, val in (("moco-1", str(other)), ("moco-2", "/gone/instances.json")):
        more = {"provenance": {**result.provenance, "val": {"annotations": val}}}
        write_result(read_result(tmp_path / name).model_copy(update=more), tmp_path / name)
    result = read_result(tmp_path / "moco-hcl-0")
    more = {"metrics": {**result.metrics, "bbox/AP": 1.0}}
    write_result(result.model_copy(update=more), tmp_path / "moco-hcl-0")
    notes = analyze(collect([tmp_path]), resamples=10, say=quiet).notes
    assert len(notes) == 4
    assert re.search("moco-0: no saved detections", notes[0])
    assert re.search("other.json: not the annotations that .*moco-1 was measured on", notes[1])
    assert re.search("/gone/instances.json are not here, .* give them with --annot", notes[2])
    assert re.search("bbox/AP is 1.0000 in the result and .* by its saved detections", notes[3])
    with pytest.raises(InputError, match=r"--annotations .*absent: no such file"):
        analyze(collect([tmp_path]), annotations=tmp_path / "absent", say=quiet)


def test_published_table_is_the_seed_papers():
    published = load()
    rows = published.of("hcl")["coco_fpn_1x"]
    assert len(rows) == 11
    aps = {row.name: (row.metrics["bbox/AP"], row.metrics["segm/AP"]) for row in rows}
    assert aps["MoCo-v2, COCO: HCL"] == (40.6, 37.0)
    assert aps["DenseCL, COCO: HCL without L_hyp"] == (41.3, 37.5)
    assert aps["ORL, COCO: HCL"] == (41.4, 37.3)
    assert aps["DenseCL, OpenImages: HCL"] == (42.1, 38.3)
    assert all(len(row.metrics) == 6 and row.unknown for row in rows)
    assert {row.confidence for row in rows} == {"second-hand"}
    assert all(published.of(paper) for paper in get_args(Paper))
    recalled = [row for row in published.rows if "from memory" in row.source and row.paper != "hcl"]
    assert len(recalled) == 16
    assert {row.confidence for row in recalled} == {"recall"}
    for row in published.rows:
        if "bbox/AP75" in row.metrics:
            assert row.metrics["bbox/AP50"] > row.metrics["bbox/AP75"] > row.metrics["bbox/AP"] - 1


BROKEN = """
benchmarks: {coco: {title: t, metric: coco, note: n, protocol: {hed: 4conv1fc}, source: s}}
rows:
- {paper: hcl, benchmark: coco, name: a, data: d, metrics: {bbox/AP: 0.4}, epochs: 1, source: s,
   confidence: table}
- {paper: hcl, benchmark: coco, name: a, data: d, metrics: {bbox/AP: 40.0}, epoch: 1, source: s,
   confidence: rumour}
"""


def test_published_file_is_read_strictly():
    with pytest.raises(InputError) as fault:
        load(BROKEN)
    told = str(fault.value)
    for part in ("'benchmarks.coco.protocol.hed'", "in percent", "epoch", "confidence"):
        assert part in told
    unknown = BROKEN.replace("hed:", "head:").replace("0.4", "40.0").replace("epoch:", "epochs:")
    unknown = unknown.replace("rumour", "table").replace(
        "benchmark: coco, name: a", "benchmark: x, name: a", 1
    )
    with pytest.raises(InputError, match=r"rows.0.benchmark': no benchmark 'x'"):
        load(unknown)
    with pytest.raises(InputError, match="not YAML"):
        load("{")
    with pytest.raises(InputError, match="needs 'benchmarks' and 'rows'"):
        load("[]")


def test_every_paper_is_a_choice():
    for paper in (*get_args(Paper), "all"):
        assert COMMAND.parse(["x", "--against", paper]).against == paper


def test_own_protocol_equals_the_published_one(folder):
    found = collect([folder])
    own = protocol_of(found.results[0])
    benchmark = load().benchmarks["coco_fpn_1x"]
    assert own == benchmark.protocol
    (compared,) = versus.versus(found, "hcl")
    assert (list(compared.own), compared.warnings) == (["moco", "moco-hcl"], [])
    by_benchmark = {one.benchmark.title: list(one.own) for one in versus.versus(found, "all")}
    assert by_benchmark.pop(benchmark.title) == ["moco", "moco-hcl"]
    assert not any(by_benchmark.values()), "each own row stands in one table"
    assert not any(one.own for one in versus.versus(found, "moco")), "VOC's AP is another metric"


def test_stock_head_batch_schedule_and_input_are_warned_of(folder, tmp_path):
    config = copy.deepcopy(CONFIG)
    config["MODEL"]["ROI_BOX_HEAD"] = {"NUM_CONV": 0, "NUM_FC": 2, "NORM": ""}
    config["INPUT"]["FORMAT"] = "BGR"
    annotations = folder / "instances_val2017.json"
    write_detection(
        *(tmp_path / "a", "stock", annotations),
        **{"skill": 0.5, "seed": 0, "config": config, "iterations": 45000, "images_per_batch": 4},
    )
    (compared,) = versus.versus(collect([tmp_path]), "densecl")[:1]
    told = " ".join(compared.warnings)
    assert "head: 0conv2fc (stock), published 4conv1fc" in told
    assert "norm: box head none (stock), published box head SyncBN" in told
    assert "schedule: 45000 iterations (stock), published 90000" in told
    assert "batch: 4 images (stock), published 16 images" in told
    assert "input: BGR (stock), published RGB" in told
    table = versus.sheet(compared)
    assert len(table.warnings) == 5
    assert "Warning: protocols differ in batch: 4" in sheets.markdown(table)
    assert table.rows[-1][0] == "stock"


def test_heads_of_own_runs_that_differ_are_told(folder, tmp_path):
    config = copy.deepcopy(CONFIG)
    config["MODEL"]["ROI_BOX_HEAD"].update(NUM_CONV=0, NUM_FC=2)
    annotations = folder / "instances_val2017.json"
    write_detection(tmp_path / "a", "ours", annotations, skill=0.5, seed=0)
    write_detection(tmp_path / "b", "stock", annotations, skill=0.5, seed=0, config=config)
    found = collect([tmp_path])
    assert warnings(found) == ["detectors differ in head: 4conv1fc (ours); 0conv2fc (stock)"]


def test_without_pycocotools_the_table_is_still_there(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("downstream.compare.significance.available", lambda: [])
    assert hcl.main(["compare", str(folder), "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "moco-hcl" in shown
    assert "pycocotools is missing" in shown


def test_what_was_not_recorded_is_no_agreement(tmp_path, folder):
    write_detection(tmp_path / "a", "bare", folder / "instances_val2017.json", skill=0.5, seed=0)
    (tmp_path / "a/config.yaml").unlink()
    own = protocol_of(collect([tmp_path]).results[0])
    assert own == TransferProtocol(
        data="instances_val2017",
        norm="backbone SyncBN",
        schedule="90000 iterations",
        batch="16 images",
    )
    (compared,) = versus.versus(collect([tmp_path]), "orl")[:1]
    assert compared.warnings[-1] == "model, head, input: not recorded for bare"


def test_c4_heads_are_told_apart(tmp_path, folder):
    config = copy.deepcopy(CONFIG)
    config["MODEL"]["BACKBONE"]["NAME"] = "build_resnet_backbone"
    config["MODEL"]["ROI_HEADS"]["NAME"] = "Res5ROIHeadsExtraNorm"
    annotations = folder / "instances_val2017.json"
    write_detection(tmp_path / "a", "c4", annotations, skill=0.5, seed=0, config=config)
    own = protocol_of(collect([tmp_path]).results[0])
    assert (own.model, own.head, own.norm) == ("R50-C4", "res5 with norm", "backbone SyncBN")


def test_all_formats_say_the_same(folder, tmp_path, capsys):
    arguments = ["compare", str(folder), "--resamples", "50", "--output", str(tmp_path)]
    arguments += ["--against", "moco"]
    assert hcl.main([*arguments, "--json"]) == 0
    shown = capsys.readouterr()
    content = json.loads(shown.out)
    assert "drawing the images again: box AP" in shown.err
    assert (tmp_path / "comparison.json").read_text() == shown.out
    by_table: dict[str, list[dict]] = {}
    for record in content["records"]:
        by_table.setdefault(record["table"], []).append(record)
    assert set(by_table) == {"own", "difference", "published", "cost"}
    (own,) = [r for r in by_table["own"] if (r["row"], r["metric"]) == ("moco", "bbox/AP")]
    assert own["low"] < own["value"] < own["high"]
    assert own["count"] == 3
    read = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert len(read) == len(content["records"])
    assert float(read[0]["value"]) == content["records"][0]["value"]
    assert content["protocols"]["moco"]["head"] == "4conv1fc"

    assert hcl.main([*arguments, "--latex"]) == 0
    tex = capsys.readouterr().out
    assert r"\begin{tabular}{lrrr}" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 6
    assert rf"{own['value']:.1f} $\pm$ {own['deviation']:.1f}" in tex
    assert hcl.main([*arguments, "--csv"]) == 0
    assert capsys.readouterr().out == (tmp_path / "table.csv").read_text()
    assert hcl.main([*arguments, "--markdown"]) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "table.md").read_text()
    assert "## Published: VOC07 test, Faster R-CNN" in text
    assert "| MoCo v1, ImageNet (moco)" in text
    assert "60.8 ± 0.2" in text
    page = (tmp_path / "report.html").read_text()
    for part in ("Differences of AP", "Precision and recall", "moco-hcl less moco, box", "Cost"):
        assert part in page
    # 2 images, 2 rows, side by side.
    section = page[page.index('<section id="detections">') : page.index('id="absent"')]
    assert section.count("<h3>Image") == 2
    assert section.count("<img") == 4


def test_cost_is_in_device_hours(folder):
    found = collect([folder])
    (first, _) = cost.costs(found)
    assert (first.row, first.unit, first.device) == ("moco", "GPU-hours", "NVIDIA H100")
    assert first.hours == {"detection": pytest.approx(3 * 7200 / 3600)}


def test_cost_of_pretraining(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    record = {"name": "moco", "step": 100, "starts": [{"world": 8}], "machine": "NVIDIA V100, x"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "config.yaml").write_text("optim: {batch_size: 256}\n")
    lines = [json.dumps({"step": n, "images_per_s": 1280.0}) for n in range(1, 4)]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    (one,) = cost.costs(collect([tmp_path]))
    assert one.hours == {"pretraining": pytest.approx(100 * 256 / 1280 * 8 / 3600)}
    (run / "config.yaml").write_text("optim: 3\n")
    assert cost.costs(collect([tmp_path])) == []
    assert cost.sheet(collect([tmp_path])) is None


def test_latex_escapes_names():
    table = sheets.Sheet("50 %", ["a_b", "c&d"], [("#1 {x} \\ ~^", [sheets.Cell("1 ± 2", True)])])
    text = sheets.latex(table)
    assert text.startswith("% 50 %\n")
    assert r"a\_b & c\&d \\" in text
    assert r"\#1 \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}" in text
    assert r"\textbf{1 $\pm$ 2}" in text


def test_columns_that_no_run_has_are_left_out(folder):
    table = sheet(collect([folder]))
    assert table.columns == ["run", "box AP", "box AP50", "box AP75"]


@pytest.mark.parametrize("option", ["--resamples", "--seed"])
def test_negative_numbers(folder, option, capsys):
    assert hcl.main(["compare", str(folder), option, "-1"]) == 2
    assert f"{option} -1: must be 0 or more" in capsys.readouterr().err
