"""Fine-tuned embeddings in `hcl compare`: columns, seeds, and published rows of their data set."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

import hcl
from downstream.compare import retrieval, versus
from downstream.results import table
from downstream.results import text_table as sheets
from downstream.results.collect import collect
from downstream.results.published import load
from downstream.results.result import Result, write_result
from downstream.retrieval.finetune.settings import load_settings

SPACES = {
    "sphere": ("backbone/euclidean", "head/euclidean"),
    "ball": ("backbone/euclidean", "head/euclidean", "head/hyperbolic"),
    "mixed": ("backbone/euclidean", "head/euclidean", "head/hyperbolic", "head/fused"),
}


def tuned(folder: Path, geometry: str, seed: int, base: float = 0.7, **said) -> Path:
    """What `hcl retrieve train` writes, with numbers that rise from space to space."""
    metrics = {}
    for place, space in enumerate(SPACES[geometry]):
        value = base + 0.02 * seed + 0.01 * place
        metrics |= {f"recall/{space}@{k}": value + 0.001 * k for k in (1, 2, 4, 8)}
        metrics |= {f"map@r/{space}": value / 2, f"r-precision/{space}": value / 1.6}
    protocol = {"data": "cub", "data_fingerprint": "f", "dim": 128, "resize": 256, "ks": [1, 2]}
    facts = {"backbone": "vit_small_patch16_224", "features": 384, "step": 50}
    for key, value in said.items():
        (protocol if key in protocol else facts)[key] = value
    result = Result(
        task="retrieval",
        run=f"{geometry}-seed{seed}",
        metrics=metrics,
        protocol=protocol,
        provenance={"weights_sha256": f"{geometry}{seed}", **facts},
    )
    write_result(result, folder)
    return folder


@pytest.fixture
def runs(tmp_path):
    for geometry in SPACES:
        for seed in range(3):
            tuned(tmp_path / "runs" / f"{geometry}-{seed}", geometry, seed)
    return tmp_path / "runs"


def test_first_table_has_every_way_of_ranking(runs):
    shown = table.sheet(collect([runs]))
    assert shown.columns == [
        "run",
        *("R@1 backbone cos", "R@1 head cos", "R@1 head hyp", "R@1 head fused"),
    ]
    by_row = {name: [cell.text for cell in cells] for name, cells in shown.rows}
    assert by_row["mixed"] == ["72.1 ± 2.0", "73.1 ± 2.0", "74.1 ± 2.0", "75.1 ± 2.0"]
    assert by_row["sphere"][2:] == [sheets.MISSING] * 2


def test_retrieval_table_has_the_asked_k_and_the_measures_at_r(runs):
    found = collect([runs])
    assert retrieval.known_ks(found) == [1, 2, 4, 8]
    shown = retrieval.sheet(found, (2, 8))
    assert shown.columns == ["run, ranked by", "R@2", "R@8", "mAP@R", "R-precision"]
    rows = dict(shown.rows)
    assert len(rows) == 9
    best = rows["mixed, head fused"]
    assert [cell.text for cell in best] == ["75.2 ± 2.0", "75.8 ± 2.0", "37.5 ± 1.0", "46.9 ± 1.3"]
    assert all(cell.best for cell in best)
    assert not any(cell.best for name, cells in rows.items() for cell in cells if cells is not best)


def test_recall_of_object_crops_alone_needs_no_second_table(tmp_path):
    metrics = {f"recall/head/euclidean@{k}": 0.1 * k for k in (1, 5)}
    write_result(Result(task="retrieval", run="a", metrics=metrics), tmp_path)
    found = collect([tmp_path])
    assert retrieval.sheet(found) is None
    assert retrieval.sheet(found, (1, 5)).columns == ["run, ranked by", "R@1", "R@5"]


def test_other_data_sets_are_not_better_or_worse(tmp_path):
    tuned(tmp_path / "a", "sphere", 0)
    tuned(tmp_path / "b", "ball", 0, base=0.9, data="cars", data_fingerprint="g")
    shown = table.sheet(collect([tmp_path]))
    assert not any(cell.best for _, cells in shown.rows for cell in cells)
    assert "retrieval protocols differ in data: cub (sphere); cars (ball)" in shown.warnings


def test_published_rows_of_the_same_data_set(runs):
    found = collect([runs])
    compared = {one.benchmark.title: one for one in versus.versus(found, "hypvit")}
    assert {title for title, one in compared.items() if one.own} == {
        "CUB-200-2011, 384 dimensions",
        "CUB-200-2011, 128 dimensions",
    }
    wide, narrow = (compared[f"CUB-200-2011, {n} dimensions"] for n in (384, 128))
    assert list(wide.own) == [f"{name}, backbone cos" for name in ("ball", "mixed", "sphere")]
    assert "mixed, head fused" in narrow.own
    assert wide.warnings == narrow.warnings == [], "the published protocol itself"
    shown = versus.sheet(wide)
    assert shown.columns == ["row", "R@1", "R@2", "R@4", "R@8", "epochs", "source", "notes"]
    rows = {name: [cell.text for cell in cells] for name, cells in shown.rows}
    assert rows["Hyp-ViT (hypvit)"][:2] == ["85.6", "91.4"]
    assert rows["ball, backbone cos"][0] == "72.1 ± 2.0"
    assert not shown.folded
    assert versus.sheet(compared["In-Shop, 384 dimensions"]).folded


def test_another_protocol_is_warned_of(tmp_path):
    other = {"backbone": "vit_tiny_patch16_224", "features": 192, "step": 7, "resize": 224}
    tuned(tmp_path / "a", "ball", 0, **other, dim=64)
    compared = {one.benchmark.title: one for one in versus.versus(collect([tmp_path]), "hypvit")}
    models = (
        "deit_small_distilled_patch16_224 or vit_small_patch16_224.dino or vit_small_patch16_224"
    )
    assert set(compared["CUB-200-2011, 128 dimensions"].warnings) == {
        f"model: vit_tiny_patch16_224 (ball), published {models}",
        "schedule: 7 steps (ball), published 50 steps",
        "dim: 64 (ball), published 128",
        "resize: 224 (ball), published 256",
    }
    wide = compared["CUB-200-2011, 384 dimensions"].warnings
    assert "dim: 192 (ball), published 384" in wide


def test_rows_without_numbers_are_shown_as_such(runs):
    (one,) = [v for v in versus.versus(collect([runs]), "hypmix") if v.own]
    rows = {name: [cell.text for cell in cells] for name, cells in versus.sheet(one).rows}
    assert rows["HypMix, ViT (hypmix)"][0] == sheets.MISSING
    assert rows["HypMix, ViT (hypmix)"][2] == "unknown"
    assert rows["mixed, head fused"][0] == "75.1 ± 2.0"


def test_object_crops_stand_beside_nothing_published(tmp_path):
    metrics = {"recall/head/euclidean@1": 0.5}
    said = {"annotations_sha256": "x", "size": 64}
    write_result(Result(task="retrieval", run="a", metrics=metrics, protocol=said), tmp_path)
    assert not any(one.own for one in versus.versus(collect([tmp_path]), "all"))


def test_published_backbones_and_sizes_are_those_of_the_presets():
    published = load()
    for row in published.rows:
        if row.preset is None:
            continue
        settings = load_settings(row.preset)
        protocol = published.protocol(row)
        assert protocol.model == settings.model.backbone
        assert protocol.data == settings.data.name
        assert protocol.resize == (settings.test.resize or settings.model.size)
        assert row.epochs in (None, settings.train.epochs)


def test_command(runs, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert hcl.main(["compare", str(runs), *output, "--ks", "4", "--against", "hypvit"]) == 0
    printed = capsys.readouterr().out
    assert "## Retrieval" in printed
    assert "| mixed, head fused " in printed
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<summary>Published: In-Shop, 128 dimensions</summary>" in page
    assert "Recall@8; whiskers: deviation over seeds" in page
    records = list(csv.DictReader(io.StringIO((tmp_path / "out/table.csv").read_text())))
    (one,) = [r for r in records if (r["row"], r["metric"]) == ("mixed", "map@r/head/fused")]
    assert float(one["value"]) == pytest.approx(0.375)
    assert hcl.main(["compare", str(runs), *output, "--ks", "3"]) == 2
    assert "--ks 3: no result has recall at this K; there is 1, 2, 4, 8" in capsys.readouterr().err
