"""`hcl analyze hard-negatives|delta|norms`: files, values, refusals, and the report of compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import hcl
from downstream.analysis.embeddings import load
from downstream.analysis.gallery import only_in
from downstream.results.analysis_record import read_record
from downstream.retrieval.finetune.finetuned_model import load_finetuned
from downstream.retrieval.finetune.score import embed as embed_images
from downstream.retrieval.hyperbolicity import sampled_delta, subset_deltas
from pretrain import checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"


def analyze(*words: object) -> int:
    return hcl.main(["analyze", *map(str, words)])


@pytest.fixture(scope="module")
def two(sphere_run, ball_run, tmp_path_factory) -> Path:
    """Hard negatives of two models."""
    output = tmp_path_factory.mktemp("two") / "analysis"
    words = ("--anchors", 9, "--ranks", 12, "--gallery", 3, "--temperature-spherical", 0.05, 0.5)
    assert analyze("hard-negatives", sphere_run, ball_run, "--output", output, *words) == 0
    return output


def check_folder(folder: Path) -> list[str]:
    """Every figure is there in both forms and on the page, which fetches nothing."""
    record = read_record(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    for figure in record.figures:
        assert (folder / figure.png).read_bytes()[:4] == b"\x89PNG"
        svg = (folder / figure.svg).read_text()
        assert "<svg" in svg
        assert "mathdefault" not in svg
        assert f'<figure id="{figure.name}"' in page
        assert len(figure.caption) > 20
    assert page.count("<img ") == len(record.figures)
    assert set(re.findall(r'src="(data:image/[a-z+]+);base64,', page)) <= {
        *("data:image/svg+xml", "data:image/jpeg")
    }
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    assert not list(folder.glob("*.tmp"))
    return [figure.name for figure in record.figures]


def test_hard_negatives_of_two_models(two, sphere_run, ball_run):
    assert check_folder(two) == ["weights", "weights_other", "weights_own", "overlap", "gallery"]
    record = read_record(two)
    assert [source.name for source in record.sources] == ["sphere", "ball"]
    assert len({source.sha256 for source in record.sources}) == 2
    assert len({source.fingerprint for source in record.sources}) == 1
    assert record.values["anchors"] == 9
    assert record.values["negatives"] == "24"
    assert set(record.values["weights"]["sphere"]) == {
        *("sphere, T=0.05", "sphere, T=0.5", "ball, T=0.2", "mixture, T=0.1 and 0.2, λ=0.5")
    }
    assert record.values["overlap by chance"]["at 6"] == pytest.approx(6 / 24)


def test_gallery_frames_exactly_the_differences(two, sphere_run, ball_run):
    from downstream.analysis.negative_stats import choose_anchors, own_weighting, weigh

    runs = [load(path, device="cpu") for path in (sphere_run, ball_run)]
    tested = runs[0].tested
    anchors = list(choose_anchors(runs[0].labels, tested.queries, tested.keys, 9, seed=0))[:3]
    lists = [
        weigh(run, anchors, [own_weighting(run.tested.settings.loss)], 6)[0].hardest for run in runs
    ]
    expected = []
    for number in range(3):
        for here, there in ((lists[0], lists[1]), (lists[1], lists[0])):
            alone = only_in(here, there)[number]
            expected += [f"framed-{tested.rows[row]}" for row in here[number][alone]]
    assert expected
    svg = (two / "gallery.svg").read_text()
    assert re.findall(r"framed-\d+", svg) == expected


def test_the_same_again_is_the_same_bytes(two, sphere_run, ball_run, tmp_path):
    before = {path.name: path.read_bytes() for path in two.iterdir()}
    words = ("--anchors", 9, "--ranks", 12, "--gallery", 3, "--temperature-spherical", 0.05, 0.5)
    assert analyze("hard-negatives", sphere_run, ball_run, "--output", two, *words) == 0
    after = {path.name: path.read_bytes() for path in two.iterdir()}
    assert before.keys() == after.keys()
    assert [n for n in before if before[n] != after[n] and n != "analysis.json"] == []
    records = [json.loads(each["analysis.json"]) for each in (before, after)]
    assert {k: v for k, v in records[0].items() if k != "created"} == {
        k: v for k, v in records[1].items() if k != "created"
    }


def test_one_model_in_both_geometries(mixed_run, tmp_path):
    assert analyze("hard-negatives", mixed_run, "--output", tmp_path, "--anchors", 5) == 0
    assert check_folder(tmp_path) == ["weights", "overlap", "gallery"]
    record = read_record(tmp_path)
    assert not record.warnings
    assert list(record.values["overlap"]) == ["mixed, cosine | mixed, ball"]


def test_equal_norms_rank_alike(released_run, tmp_path):
    assert analyze("hard-negatives", released_run, "--output", tmp_path, "--anchors", 8) == 0
    record = read_record(tmp_path)
    assert "rank all negatives alike" in record.warnings[0]
    assert set(next(iter(record.values["overlap"].values())).values()) == {1.0}
    assert "framed-" not in (tmp_path / "gallery.svg").read_text()


def test_anchors_of_gallery_sets_are_queries(make_tuned, shapes, tmp_path):
    root = tmp_path / "parts"
    for split, classes in (("train", (0, 1, 2)), ("query", (3, 4)), ("gallery", (3, 4, 5))):
        (root / split).mkdir(parents=True)
        for label in classes:
            (root / split / f"class{label}").symlink_to(shapes / f"class{label}")
    run = make_tuned("gallery", root=root, geometry="sphere")
    assert analyze("hard-negatives", run, "--output", tmp_path / "a", "--anchors", 99) == 0
    values = read_record(tmp_path / "a").values
    assert values["anchors"] == 12
    assert values["negatives"] == "12"


def test_refusals(two, sphere_run, ball_run, class_of, tmp_path, capsys):
    for words, told in (
        (("hard-negatives", sphere_run, "--output", two), "holds another analysis (anchors,"),
        (("norms", sphere_run, "--output", two), "(hard-negatives)"),
        (("hard-negatives", sphere_run, ball_run, ball_run, "--output", tmp_path), "one or two"),
        (("delta", sphere_run, ball_run, "--output", tmp_path), "needs one RUN, got 2"),
        (("norms", "data.root=x", "--output", tmp_path), "at least one RUN, got 0"),
        (("norms", sphere_run, "loss.weight=2", "--output", tmp_path), "only data.* and test.*"),
        (("norms", sphere_run, "data.root=/nowhere", "--output", tmp_path), "no such folder"),
        (("norms", tmp_path / "none", "--output", tmp_path), "checkpoint"),
        (("hard-negatives", class_of, "--output", tmp_path), "are those of a loss"),
        (("norms", sphere_run, "--annotations", "x", "--output", tmp_path), "need each other"),
    ):
        assert analyze(*words) == 2, words
        assert told in capsys.readouterr().err, words
    assert analyze("normes") == 2
    assert "did you mean 'norms'?" in capsys.readouterr().err
    (tmp_path / "report.html").write_text("of something else")
    assert analyze("norms", sphere_run, "--output", tmp_path) == 2
    assert "report.html: is there already" in capsys.readouterr().err


def test_models_of_different_images_are_not_compared(
    sphere_run, make_tuned, other_shapes, tmp_path
):
    other = make_tuned("elsewhere", root=other_shapes, geometry="sphere")
    assert analyze("hard-negatives", sphere_run, other, "--output", tmp_path / "a") == 2
    override = f"data.root={other_shapes}"
    assert analyze("hard-negatives", sphere_run, other, override, "--output", tmp_path / "a") == 0


def test_overwriting_leaves_no_old_figure(sphere_run, tmp_path):
    assert analyze("hard-negatives", sphere_run, "--output", tmp_path, "--anchors", 3) == 0
    assert (tmp_path / "gallery.png").is_file()
    assert analyze("norms", sphere_run, "--output", tmp_path, "--fresh") == 0
    assert check_folder(tmp_path) == ["norms", "classes_1"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("analysis.json", "report.html", "norms.png", "norms.svg"),
        *("classes_1.png", "classes_1.svg"),
    }


@pytest.fixture(scope="module")
def class_of(tmp_path_factory) -> Path:
    """Embeddings of golden points, of two classes."""
    file = tmp_path_factory.mktemp("arrays") / "points.npz"
    points = np.load(GOLDEN / "delta_hyp.npz")["gauss_points"]
    np.savez(file, embeddings=points, labels=np.repeat([3, 8], len(points) // 2))
    return file


def test_delta_is_golden(class_of, tmp_path):
    golden = np.load(GOLDEN / "delta_hyp.npz")
    assert analyze("delta", class_of, "--output", tmp_path) == 0
    assert check_folder(tmp_path) == ["delta"]
    record = read_record(tmp_path)
    found = record.values["head, Euclidean"]
    # The subset of all points is permuted, so the base is another one of the forty.
    bases = golden["gauss_delta_per_base"]
    assert np.abs(bases - found["δ"]).min() < 1e-12
    assert found["diameter"] == pytest.approx(float(golden["gauss_diam"]), rel=1e-12)
    assert found["2δ/diameter"] == pytest.approx(2 * found["δ"] / found["diameter"], rel=1e-12)
    assert found["δ/diameter"] == pytest.approx(found["2δ/diameter"] / 2, rel=1e-12)
    assert found["c"] == pytest.approx((0.144 / found["2δ/diameter"]) ** 2, rel=1e-12)
    assert "40 points are few" in record.warnings[0]
    assert "2δ/diameter is that of Khrulkov" in record.notes[0]
    assert "δ/diameter, half of it" in record.notes[0]


def test_delta_of_subsets_is_that_of_the_evaluation(ball_run):
    features = load(ball_run, device="cpu").features

    def euclidean(points):
        return torch.cdist(points, points)

    mine = subset_deltas(features, euclidean, samples=12, times=4, seed=3)
    theirs = sampled_delta(features, samples=12, times=4, seed=3)
    assert np.mean([each.relative for each in mine]) == pytest.approx(theirs.relative, rel=1e-6)
    assert len(subset_deltas(features, euclidean, samples=99, times=4, seed=3)) == 1


def test_delta_of_a_run_has_all_its_spaces(ball_run, tmp_path):
    words = ("--samples", 20, "--repeats", 3, "--split", "train")
    assert analyze("delta", ball_run, "--output", tmp_path, *words) == 0
    values = read_record(tmp_path).values
    assert values["subsets"] == 3
    spaces = ["backbone, Euclidean", "head, Euclidean", "head, directions", "ball, c=0.1"]
    assert list(values)[3:] == spaces
    assert values[spaces[0]]["2δ/diameter, deviation over subsets"] > 0


def test_norms_are_those_of_the_network(ball_run, released_run, tmp_path):
    assert analyze("norms", ball_run, released_run, "--output", tmp_path) == 0
    assert check_folder(tmp_path) == ["norms", "distances", "classes_1", "classes_2"]
    record = read_record(tmp_path)
    tuned = load_finetuned(ball_run)
    run = load(ball_run, device="cpu")
    raw = embed_images(
        tuned.network, run.tested.images, run.tested.rows.tolist(), tuned.settings
    ).projections.norm(dim=1)
    found = record.values["ball"]
    assert found["norm of the output"]["mean"] == pytest.approx(float(raw.mean()), rel=1e-6)
    # Neither clipped nor at the rim: a point lies twice its input's norm from the center.
    assert found["distance from the center"]["mean"] == pytest.approx(2 * float(raw.mean()))
    assert found["share at the largest norm"] == 0
    released = record.values["released"]["distance from the center"]
    assert released["mean"] == pytest.approx(2)
    assert len(record.warnings) == 1
    assert "released: all points of the ball lie 2 from" in record.warnings[0]


def test_clipped_points_are_told(make_tuned, tmp_path):
    run = make_tuned("clipped", geometry="ball", clip_radius=0.5)
    assert analyze("norms", run, "--output", tmp_path) == 0
    record = read_record(tmp_path)
    assert record.values["clipped"]["share at the largest norm"] == 1
    assert record.warnings


def test_norms_of_a_pretrained_run(random_run, object_set, tmp_path):
    annotations, images = object_set
    words = ("--annotations", annotations, "--images", images, "--device", "cpu")
    assert analyze("norms", random_run, "--output", tmp_path / "n", *words) == 0
    assert check_folder(tmp_path / "n") == ["norms", "distances", "classes_1", "objects_1"]
    values = read_record(tmp_path / "n").values["run-a"]
    assert values["embeddings"] == 18
    # Every scene of the set has three objects.
    assert values["scenes, rank correlation with the number of objects in the image"] is None
    retrieve = ["retrieve", str(random_run), "--output", str(tmp_path / "r"), *map(str, words)]
    assert hcl.main(retrieve) == 0
    measured = json.loads((tmp_path / "r/result.json").read_text())["metrics"]
    assert values["distance from the center"]["mean"] == pytest.approx(measured["norm/object"])
    assert values["scenes"]["mean"] == pytest.approx(measured["norm/scene"])
    assert analyze("delta", random_run, "--output", tmp_path / "d", *words) == 0
    assert "ball, c=0.1" in read_record(tmp_path / "d").values


def test_arrays_with_a_ball(tmp_path, capsys):
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.4, 0.4, (30, 3))
    arrays = {"embeddings": points, "labels": np.arange(30) % 3, "ball": points, "c": 2.0}
    np.savez(tmp_path / "p.npz", **arrays)
    assert analyze("norms", tmp_path / "p.npz", "--output", tmp_path / "n") == 0
    found = read_record(tmp_path / "n").values["p"]["distance from the center"]["mean"]
    lengths = np.linalg.norm(points, axis=1)
    assert found == pytest.approx((2 / 2**0.5 * np.arctanh(2**0.5 * lengths)).mean())
    capsys.readouterr()
    for change, told in (
        ({"c": 9.0}, "outside the ball"),
        ({"c": None}, "ball and c together"),
        ({"c": np.array([0.5, 0.6])}, "'c' has shape (2,)"),
        ({"c": "one"}, "'c' has shape () of"),
        ({"labels": np.arange(7)}, "a row for each of the 7 labels"),
        ({"labels": 3}, "'labels' has shape ()"),
        ({"labels": np.zeros((30, 1), int)}, "'labels' has shape (30, 1)"),
        ({"embeddings": points.astype(int)}, "floating-point"),
        ({"embeddings": points * np.nan}, "finite"),
    ):
        made = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        np.savez(tmp_path / "bad.npz", **made)
        assert analyze("delta", tmp_path / "bad.npz", "--output", tmp_path / "d") == 2
        assert told in capsys.readouterr().err
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    assert analyze("delta", tmp_path / "bad.npz", "--output", tmp_path / "d") == 2
    assert "cannot be read" in capsys.readouterr().err


def test_options_that_nothing_looks_at_are_refused(class_of, sphere_run, tmp_path, capsys):
    objects = ("--annotations", tmp_path / "a.json", "--images", tmp_path)
    output = ("--output", tmp_path / "o")
    for words, told in (
        (("delta", class_of, "--split", "train"), "--split train: is for runs of"),
        (("delta", class_of, "data.workers=1"), "data.workers=1: is for runs of"),
        (("norms", class_of, *objects), "not for .npz"),
        (("delta", sphere_run, *objects, "--split", "train"), "not for --annotations"),
        (("norms", sphere_run, class_of, *objects, "test.batch=2"), "test.batch=2: is for"),
    ):
        assert analyze(*words, *output) == 2, words
        assert told in capsys.readouterr().err, words
    # Beside a run that looks at them they are of use.
    assert analyze("norms", sphere_run, class_of, "test.batch=2", *output) == 0


def diverged(run: Path, folder: Path) -> Path:
    """The run's newest checkpoint with weights that are not finite."""

    def spoil(value):
        if isinstance(value, dict):
            for each in value.values():
                spoil(each)
        elif torch.is_tensor(value) and value.is_floating_point():
            value.fill_(torch.nan)

    _, state = checkpoint.load_latest(run / "checkpoints")
    spoil(state)
    return checkpoint.save(folder, state, 1, keep=1, keep_every=None)


def test_a_run_that_diverged_is_refused(sphere_run, random_run, object_set, tmp_path, capsys):
    annotations, images = object_set
    objects = ("--annotations", annotations, "--images", images, "--device", "cpu")
    for run, words in ((sphere_run, ()), (random_run, objects)):
        spoilt = diverged(run, tmp_path / run.name)
        assert analyze("norms", spoilt, *words, "--output", tmp_path / "o") == 2
        assert f"{spoilt}: its embeddings are not finite" in capsys.readouterr().err


def test_compare_shows_what_lies_below_its_runs(two, sphere_run, tmp_path):
    folder = tmp_path / "study"
    (folder / "run").mkdir(parents=True)
    (folder / "run/result.json").write_text((sphere_run / "result.json").read_text())
    plain = tmp_path / "plain"
    assert hcl.main(["compare", str(folder), "--output", str(plain)]) == 0
    assert 'id="analyses"' not in (plain / "report.html").read_text()
    figures = folder / "figures"
    figures.mkdir()
    for path in two.iterdir():
        (figures / path.name).write_bytes(path.read_bytes())
    # A record may name what it likes: only files of its own folder are shown.
    record = json.loads((figures / "analysis.json").read_text())
    record["title"] = "<b>not markup</b>"
    record["figures"][0] |= {"png": "../run/result.json", "svg": "../run/result.json"}
    (figures / "analysis.json").write_text(json.dumps(record))
    words = ["compare", str(folder), str(folder / "figures/.."), "--output", str(tmp_path / "r")]
    assert hcl.main(words) == 0
    page = (tmp_path / "r/report.html").read_text()
    start = page.index('<section id="analyses">')
    section = page[start : page.index("</section>", start)]
    assert section.count("<img ") == len(record["figures"]) - 1
    assert "not shown" in section
    assert "weights" in section
    assert "&lt;b&gt;not markup" in section
    assert "<b>not" not in page
    assert '<a href="#analyses">' in page
    (figures / "analysis.json").write_text("{}")
    assert hcl.main(words) == 2
