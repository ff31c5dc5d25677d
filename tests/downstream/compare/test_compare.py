"""`hcl compare`: the table, the report, and what is missing or hostile in their sources."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hcl
from downstream.compare.figures import norm_figures
from downstream.compare.plots import PALETTE, thin
from downstream.figures.pages import inline
from downstream.results import text_table as sheets
from downstream.results.collect import collect
from downstream.results.result import Result, write_result
from downstream.results.table import sheet, value_of
from downstream.results.text_table import MISSING
from pretrain.core.errors import InputError

VOID = {"meta", "img", "br", "hr", "link", "input"}
SECTIONS = {
    *("table", "losses", "detection", "precision", "categories", "retrieval", "norms"),
    *("views", "detections", "neighbours", "metrics", "provenance"),
}


class Page(HTMLParser):
    """Checks nesting, and collects ids, links, images and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.graphics: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self._note(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag, f"</{tag}> is out of place"

    def handle_data(self, data):
        self.text += data

    def _note(self, tag, attributes):
        self.tags.add(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("src", "href", "xlink:href"):
            if attributes.get(name):
                self.references.append(attributes[name])
        if tag == "img":
            self.images.append(attributes)
        if tag == "svg":
            self.graphics.append(attributes)


def detection(folder: Path, run: str, ap: float, **more) -> Path:
    metrics = {
        f"{kind}/{name}": ap * f
        for kind in ("bbox", "segm")
        for name, f in (("AP", 1.0), ("AP50", 1.8), ("AP75", 0.9))
    }
    write_result(Result(task="detection", run=run, metrics=metrics, **more), folder)
    return folder


def retrieval(folder: Path, run: str, recall: float, **more) -> Path:
    metrics = {
        f"recall/{space}@{k}": min(1.0, recall * k**0.3)
        for space in ("backbone/euclidean", "head/euclidean", "head/hyperbolic")
        for k in (1, 5)
    }
    metrics |= {"recall/chance@1": 0.1, "norm/object": 2.0, "norm/scene": 2.5}
    metrics |= {"norm/object/q10": 1.5, "norm/object/q50": 1.9, "norm/object/q90": 2.6}
    write_result(Result(task="retrieval", run=run, metrics=metrics, **more), folder)
    return folder


def pretraining(folder: Path, name: str | None = None, hcl_branch: bool = True) -> Path:
    folder.mkdir(parents=True)
    record = {
        "name": name or folder.name,
        "method": "moco+hcl" if hcl_branch else "moco",
        "state": "finished",
        "starts": [{"time": "2026-01-02T03:04:05Z", "command": ["hcl", "pretrain", "quickstart"]}],
        "versions": {"hcl": "0.1.0", "commit": "abc123"},
        "step": 40,
        "total_steps": 40,
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("seed: 0\nmethod:\n  name: moco\n")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 41):
            line = {"step": step, "loss": 8 - step / 20, "loss/euclidean": 7 - step / 20}
            line |= {"lr": 0.1, "images_per_s": 100.0, "data_wait": 0.02}
            if hcl_branch:
                line |= {"loss/hyperbolic": 1.0, "norm/object": 1.0, "norm/scene": 1.0 + step / 40}
                line |= {"hyperbolic/key/distance": 0.5}
            file.write(json.dumps(line) + "\n")
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / "views.png")
    return folder


def markdown(found) -> str:
    return sheets.markdown(sheet(found))


def cells(table: str) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first cell."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in split}


def report(items: list[Path], output: Path, *more: str) -> tuple[str, Page]:
    assert hcl.main(["compare", *map(str, items), "--output", str(output), *more]) == 0
    text = (output / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def real(make_run, object_set, tmp_path_factory) -> list[Path]:
    """Two runs, evaluated by `hcl retrieve` itself, with the run folder's files beside."""
    root = tmp_path_factory.mktemp("real")
    annotations, images = object_set
    folders = []
    for seed, name in enumerate(("moco", "moco-hcl")):
        folder = pretraining(root / name, hcl_branch=bool(seed))
        make_run(folder, curvature=0.1 if seed else None, seed=seed)
        where = ["--annotations", str(annotations), "--images", str(images), "--device", "cpu"]
        output = ["--output", str(folder / "retrieval")]
        assert hcl.main(["retrieve", str(folder), *where, *output]) == 0
        (folder / "detection/shown").mkdir(parents=True)
        Image.fromarray(np.full((60, 80, 3), 99, np.uint8)).save(folder / "detection/shown/a.jpg")
        detection(
            folder / "detection", name, 10.0 + seed, artifacts={"detections": ["shown/a.jpg"]}
        )
        folders.append(folder)
    return folders


def test_every_section_is_there_and_filled(real, tmp_path, capsys):
    text, page = report(real, tmp_path)
    assert set(page.ids) & SECTIONS == SECTIONS - {"precision", "categories"}
    # losses 3, detection 2, recall at 1, 5, 10, norms 2
    assert len(page.graphics) == 10
    # views 2, detections 2, neighbor sheets 4
    assert len(page.images) == 8
    assert "hcl retrieve" in page.text
    assert "hcl pretrain quickstart" in page.text
    absent = re.findall(r"<li>([^<]*)</li>", text[text.index('id="absent"') :])
    assert [line.partition(":")[0] for line in absent] == [
        "Precision and recall",
        "Differences by category",
    ], "no detections were saved"
    assert "report.html" in capsys.readouterr().out


def test_page_stands_alone(real, tmp_path):
    text, page = report(real, tmp_path)
    assert len(page.ids) == len(set(page.ids)), "ids must be unique"
    assert all(r.startswith(("#", "data:image/jpeg;base64,")) for r in page.references)
    targets = {r.removeprefix("#") for r in page.references if r.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets <= set(page.ids)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "@import" not in text
    assert len(text) < 10 * 2**20


def test_pictures_and_plots_have_descriptions(real, tmp_path):
    _, page = report(real, tmp_path)
    assert all(image["alt"] and image["width"] for image in page.images)
    assert all(g["role"] == "img" and g["aria-label"] for g in page.graphics)
    labels = " ".join(str(g["aria-label"]) for g in page.graphics)
    assert "moco AP 10.0" in labels
    assert "Total loss: moco from 7.95 to 6" in labels


def test_plots_follow_light_and_dark(real, tmp_path):
    text, _ = report(real, tmp_path)
    graphics = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in graphics
    assert "#000000" not in graphics
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text


def luminance(color: str) -> float:
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", PALETTE)
@pytest.mark.parametrize("card", ["#f6f7f9", "#1c2027"], ids=["light", "dark"])
def test_colors_stand_out(color, card):
    bright, dim = sorted((luminance(color), luminance(card)), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 3.0


def test_table_order_bold_and_missing(tmp_path, capsys):
    items = [
        detection(tmp_path / "b", "zebra", 20.0),
        detection(tmp_path / "a", "ant", 22.04),
        retrieval(tmp_path / "c", "ant", 0.25),
        detection(tmp_path / "d", "bee", 21.96),
    ]
    assert hcl.main(["compare", *map(str, items), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    table = cells(printed)
    assert list(table)[2:] == ["zebra", "ant", "bee"], "first seen, first row"
    assert table["run"][:3] == ["box AP", "box AP50", "box AP75"]
    assert table["zebra"] == [*("20.0", "36.0", "18.0") * 2, *(MISSING,) * 4]
    assert table["ant"] == [
        *("**22.0**", "**39.7**", "**19.8**") * 2,
        *("25.0", "25.0", "25.0", "10.0"),
    ], "bold is better than another"
    assert table["bee"][0] == "**22.0**", "equal as displayed is equally good"
    assert table["bee"][1] == "39.5"
    saved = (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert saved.startswith("# Comparison of pretraining runs\n")
    assert cells(saved) == table


def test_html_table_agrees_with_markdown(tmp_path):
    items = [detection(tmp_path / "a", "ant", 22.0), retrieval(tmp_path / "b", "bee", 0.5)]
    text, _ = report(items, tmp_path / "out")
    (body,) = re.findall(r'id="table".*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]
    plain = [[re.sub(r"</?strong>", "**", cell) for cell in row] for row in rows]
    table = cells((tmp_path / "out/table.md").read_text(encoding="utf-8"))
    assert plain == [table["ant"], table["bee"]]


def test_seeds_become_mean_and_deviation(tmp_path):
    for number, ap in enumerate((20.0, 22.0, 24.0)):
        detection(tmp_path / f"{number}", "moco", ap, provenance={"weights_sha256": str(number)})
    found = collect([tmp_path])
    value = value_of(found, "moco", "detection", "bbox/AP")
    assert (value.mean, value.deviation, value.count) == (22.0, 2.0, 3)
    table = markdown(found)
    assert cells(table)["moco"][0] == "22.0 ± 2.0"
    assert "over several results: 3 of moco (detection)" in table
    assert "Warning" not in table


def test_the_same_weights_twice_are_no_seeds(tmp_path):
    for number in range(2):
        detection(tmp_path / f"{number}", "moco", 20.0, provenance={"weights_sha256": "same"})
    assert "some are of the same weights" in markdown(collect([tmp_path]))


def test_numbers_that_are_none_do_not_count(tmp_path):
    detection(tmp_path / "a", "ant", 20.0)
    file = tmp_path / "b/result.json"
    detection(tmp_path / "b", "bee", 10.0)
    file.write_text(file.read_text().replace("10.0", "NaN"))
    table = cells(markdown(collect([tmp_path])))
    assert (table["ant"][0], table["bee"][0]) == ("20.0", MISSING)


def test_an_item_reached_twice_counts_once(tmp_path):
    folder = detection(tmp_path / "a", "moco", 20.0)
    found = collect([tmp_path, folder, folder / "result.json"])
    assert len(found.results) == 1


def test_protocols_that_differ_are_told(tmp_path):
    detection(tmp_path / "a", "ant", 20.0, protocol={"solver": {"steps": 100, "lr": 0.1}})
    detection(tmp_path / "b", "bee", 21.0, protocol={"solver": {"steps": 200, "lr": 0.1}})
    retrieval(tmp_path / "c", "bee", 0.5, protocol={"size": 64})
    text, page = report([tmp_path], tmp_path / "out")
    warning = "detection protocols differ in solver.steps: 100 (ant); 200 (bee)"
    assert page.text.count(warning) == 1
    assert f"Warning: {warning}" in (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert "lr: 0.1 (" not in text


def test_hostile_names_are_escaped(tmp_path):
    name = "<script>alert('x')</script> $a$ | `b` _c"
    run = pretraining(tmp_path / "run", name)
    (run / "config.yaml").write_text("note: </pre><script>alert(1)</script>\n")
    detection(tmp_path / "det", name, 20.0, provenance={"<b>key": "<i>value"})
    retrieval(tmp_path / "ret", name, 0.4, protocol={"<u>": "</dd>"})
    text, page = report([tmp_path], tmp_path / "out", "--title", "<em>title & more</em>")
    assert "script" not in page.tags
    assert not page.tags & {"b", "i", "u", "em"}
    assert name in page.text
    assert "<em>title & more</em>" in page.text
    assert "alert" not in "".join(re.findall(r"<svg[^>]*>(.*?)</svg>", text, re.DOTALL))
    table = (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert "\\<script>" in table
    assert len(cells(table)) == 3


def test_missing_pieces_are_tolerated(tmp_path):
    run = pretraining(tmp_path / "bare", hcl_branch=False)
    (run / "views.png").unlink()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    (tmp_path / "outside.jpg").write_bytes(b"")
    detection(
        tmp_path / "det",
        "bare",
        20.0,
        artifacts={"detections": ["gone.jpg", "../outside.jpg", 3], "other": None},
    )
    (tmp_path / "ret").mkdir()
    (tmp_path / "ret/broken.jpg").write_bytes(b"\xff\xd8\xffno picture")
    write_result(
        Result(
            task="retrieval",
            run="other",
            metrics={"recall/head/euclidean@1": 0.5},
            artifacts={"neighbours": ["broken.jpg"]},
        ),
        tmp_path / "ret",
    )
    text, page = report([tmp_path], tmp_path / "out")
    there = {"table", "losses", "detection", "retrieval", "metrics", "provenance"}
    assert set(page.ids) & SECTIONS == there
    assert not page.images
    assert "Neighbor sheets: run hcl retrieve." in page.text
    assert "unreadable lines of metrics.jsonl" in text


def test_norms_of_two_encoders_are_not_drawn(tmp_path):
    """Runs of earlier versions logged objects of the momentum encoder, scenes of the query's."""
    run = pretraining(tmp_path / "moco-hcl")
    (figure,) = norm_figures(collect([run]))
    assert "query encoder in evaluation mode" in figure.caption
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        del line["hyperbolic/key/distance"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert norm_figures(collect([run])) == []


def test_only_runs_or_only_results(tmp_path):
    _, page = report([pretraining(tmp_path / "bare")], tmp_path / "out")
    assert "No detection result" in page.text
    assert "No retrieval result" in page.text
    table = cells((tmp_path / "out/table.md").read_text(encoding="utf-8"))
    assert set(table["bare"]) == {MISSING}


def test_items_that_hold_nothing_are_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    good = detection(tmp_path / "good", "moco", 20.0)
    output = ["--output", str(tmp_path / "out")]
    assert hcl.main(["compare", str(tmp_path / "empty"), *output]) == 2
    assert f"{tmp_path / 'empty'}: no result.json" in capsys.readouterr().err
    assert hcl.main(["compare", str(tmp_path / "absent"), *output]) == 2
    assert "absent: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert hcl.main(["compare", str(good), str(tmp_path / "empty"), *output]) == 0
    assert "empty: neither a result.json nor a run in it" in capsys.readouterr().out


def test_unreadable_sources_are_named(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/result.json").write_text("{")
    with pytest.raises(InputError, match=r"result.json: not a result file"):
        collect([tmp_path / "bad"])
    run = pretraining(tmp_path / "run")
    (run / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run.json: not a run's record"):
        collect([run])


def test_output_that_is_a_file(tmp_path, capsys):
    good = detection(tmp_path / "good", "moco", 20.0)
    file = tmp_path / "file"
    file.write_text("")
    assert hcl.main(["compare", str(good), "--output", str(file)]) == 2
    assert "name a folder" in capsys.readouterr().err


def test_many_pictures_stay_within_the_budget(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (500, 500, 3), np.uint8)).save(paths[-1])
    whole = inline(paths)
    assert all(picture.width == 500 for picture in whole.values())
    small = inline(paths, budget=400_000)
    assert len(small) == 12
    assert sum(len(p.uri) for p in small.values()) <= 400_000 * 4 / 3
    assert 0 < len(inline(paths, budget=50_000)) < 12


def test_long_curves_are_thinned_to_means():
    steps, values = thin((list(range(6000)), [float(n % 2) for n in range(6000)]))
    assert len(steps) == 300
    assert values == [0.5] * 300
    assert steps[0] == pytest.approx(9.5)
