"""Every preset of fine-tuning: its settings are the published ones, and it runs scaled down."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from PIL import Image

import hcl
from downstream.analysis.cli import COMMANDS as ANALYSES
from downstream.results.published import load, rows_beside
from downstream.results.result import read_result
from downstream.retrieval.datasets.dataset_specs import KNOWN
from downstream.retrieval.finetune.settings import load_settings
from pretrain.core.errors import InputError
from pretrain.core.presets import configs_root
from slurm.graph import load_pipeline

EVERY = sorted(path.stem for path in (configs_root() / "retrieval").glob("*.yaml"))
QUICK = [name for name in EVERY if name.startswith("quickstart_")]
GROCERY = [name for name in EVERY if name.startswith("grocery_")]
PRESETS = [name for name in EVERY if name not in QUICK and name not in GROCERY]
BACKBONES = ("vits", "deits", "dino")
SETS = ("cub", "cars", "sop", "inshop")
SHAPES = {"cub": (100, 9), "cars": (98, 9), "sop": (450, 2), "inshop": (450, 2)}
STEPS = {"cub": 50, "cars": 300, "sop": 5_000, "inshop": 3_200}


def test_there_is_one_for_every_published_row():
    rows = {f"{kind}_{b}_{s}" for kind, b, s in product(("sph", "hyp"), BACKBONES, SETS)}
    rows |= {f"hypmix_{b}_{s}" for b, s in product(BACKBONES, SETS[:3])}
    assert set(PRESETS) == rows | {"hypmix_released_vits_cub"}


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_are_the_published_ones(preset):
    settings = load_settings(preset)
    kind, backbone, name = preset.replace("_released", "").split("_")
    assert settings.output == f"runs/{preset}"
    assert settings.data.name == name
    assert (settings.sampler.classes, settings.sampler.samples) == SHAPES[name]
    images, classes = KNOWN[name].counts["train"]
    assert classes >= settings.sampler.classes
    assert images > 0
    assert settings.train.epochs is not None
    assert settings.train.epochs * (classes // settings.sampler.classes) == STEPS[name]
    geometry = {"sph": "sphere", "hyp": "ball", "hypmix": "mixed"}[kind]
    assert settings.loss.geometry == geometry
    assert settings.optim.lr == (1e-5 if backbone == "dino" else 3e-5)
    assert settings.test.resize == (256 if name == "cub" else None)
    assert (settings.model.tokens == "released") == (backbone == "deits")
    assert (settings.loss.curvature, settings.loss.clip_radius) == (0.1, 2.3)
    assert (settings.model.freeze, settings.model.dim) == (0, 128)
    released = "released" in preset
    assert (settings.loss.ball_input == "unit") == settings.optim.clip_scaled == released


def test_quick_presets_differ_in_the_loss_alone():
    settings = {name.removeprefix("quickstart_vit"): load_settings(name) for name in QUICK}
    assert set(settings) == {"", "_sphere", "_ball", "_mixed_logits", "_mixed_losses", "_released"}
    start, sphere, released = (settings.pop(name) for name in ("", "_sphere", "_released"))
    same = sphere.model_dump(exclude={"output", "loss"})
    assert start.output == sphere.model.run
    assert start.data == sphere.data
    for name, other in settings.items():
        assert other.output == f"runs/quickstart_vit{name}"
        assert other.model_dump(exclude={"output", "loss"}) == same
        loss = other.loss
        assert loss.geometry == name[1:].split("_")[0]
        assert loss.geometry == "ball" or loss.combine == name.split("_")[2]
        numbers = sphere.loss.model_dump(exclude={"geometry", "combine"})
        assert loss.model_dump(exclude={"geometry", "combine"}) == numbers
    parity = load_settings("hypmix_released_vits_cub")
    assert released.loss == parity.loss
    assert released.optim.clip_scaled
    assert released.train.precision == parity.train.precision


def test_grocery_presets_differ_in_the_loss_and_the_rate_alone():
    settings = {name.removeprefix("grocery_"): load_settings(name) for name in GROCERY}
    assert set(settings) == {"sphere", "ball", "mixed_logits", "mixed_losses", "released"}
    same = settings["sphere"].model_dump(exclude={"output", "loss", "optim"})
    for name, other in settings.items():
        assert other.output == f"runs/grocery_{name}"
        assert other.model_dump(exclude={"output", "loss", "optim"}) == same
        rate = other.optim.lr
        assert other.optim.model_copy(update={"lr": 1.0}) == settings["sphere"].optim.model_copy(
            update={"lr": 1.0}
        )
        assert rate in (3e-4, 1e-3), "one that study_grocery tries"
        assert other.loss.geometry == name.split("_")[0].replace("released", "mixed")
    assert settings["released"].loss == load_settings("hypmix_released_vits_cub").loss


def test_grocery_preset_runs_scaled_down_with_coarse_classes(tmp_path):
    names = ("Pink-Lady", "Royal-Gala", "Lime", "Oat-Milk", "Soy-Milk", "Leek")
    above = ("Apple", "Apple", "Lime", "Milk", "Milk", "Leek")
    head = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    rows = [f"{name},{n},{above[n]},0" for n, name in enumerate(names)]
    (tmp_path / "classes.csv").write_text("\n".join([head, *rows]) + "\n")
    for part in ("train", "val", "test"):
        (tmp_path / part).mkdir()
        for n, name in enumerate(names):
            Image.new("RGB", (40, 36), (40 * n, 80, 20)).save(tmp_path / part / f"{name}.jpg")
        lines = [f"{part}/{name}.jpg, {n}, 0\n" for n, name in enumerate(names)]
        (tmp_path / f"{part}.txt").write_text("".join(lines))
    small = [
        *(f"data.root={tmp_path}", "model.weights=null", "model.size=32", "train.steps=1"),
        *("sampler.classes=2", "sampler.samples=2", f"output={tmp_path / 'run'}"),
    ]
    assert hcl.main(["retrieve", "train", "grocery_mixed_losses", *small]) == 0
    metrics = read_result(tmp_path / "run").metrics
    for ranking in ("backbone/euclidean", "head/euclidean", "head/hyperbolic", "head/fused"):
        for k in (1, 2, 4, 8):
            fine, coarse = metrics[f"recall/{ranking}@{k}"], metrics[f"coarse-recall/{ranking}@{k}"]
            assert 0 <= fine <= coarse <= 1
    assert (
        hcl.main(
            [
                "retrieve",
                "eval",
                str(tmp_path / "run"),
                "data.classes=coarse",
                f"--output={tmp_path / 'coarse'}",
            ]
        )
        == 0
    )
    other = read_result(tmp_path / "coarse").metrics
    assert other["map@r/head/fused"] == metrics["coarse-map@r/head/fused"]


@pytest.mark.parametrize("preset", ["sph_dino_cars", "hyp_deits_cub", "hypmix_released_vits_cub"])
def test_preset_runs_scaled_down(preset, tmp_path):
    for label in range(4):
        folder = tmp_path / "set" / f"c{label}"
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 36), (60 * label, 80, 20 * number)).save(folder / f"{number}.png")
    tiny = "{depth: 1, embed_dim: 32, num_heads: 2, img_size: 32}"
    small = [
        *("data.name=folder", f"data.root={tmp_path / 'set'}", "data.workers=0"),
        *("model.weights=null", f"model.options={tiny}", "model.size=32", "test.resize=null"),
        *("sampler.classes=2", "sampler.samples=3", "train.epochs=2", "train.device=cpu"),
        *("train.tensorboard=false", f"output={tmp_path / 'run'}"),
    ]
    assert hcl.main(["retrieve", "train", preset, *small]) == 0
    metrics = read_result(tmp_path / "run").metrics
    assert ("norm/std" in metrics) == ("sph" not in preset)
    assert 0 <= metrics["map@r/head/euclidean"] <= 1


def test_published_numbers():
    published = load()
    tables = {name for name, _ in published.benchmarks.items()}
    assert tables >= {f"{name}_{width}" for name in SETS for width in ("384", "128")}
    for row in published.rows:
        values = [row.metrics[key] for key in row.metrics if key.startswith("recall")]
        assert values == sorted(values), f"{row.name}: recall grows with K"
        assert row.preset is None or row.preset in PRESETS
    named = {row.preset for row in published.rows if row.preset}
    assert named >= {p for p in PRESETS if not p.startswith("hypmix")}
    missing = [row for row in published.rows if not row.metrics]
    assert all(row.confidence == "unknown" for row in missing)


def test_published_rows_of_a_run():
    deit = "deit_small_distilled_patch16_224"
    rows = rows_beside("ball", deit, "cars")
    assert [(row.benchmark, row.metrics["recall@1"]) for row in rows] == [
        ("cars_384", 86.4),
        ("cars_128", 82.1),
    ]
    assert rows_beside("sphere", "resnet50", "cars") == []
    assert rows_beside("mixed", deit, "cars") == [], "no numbers of HypMix are known"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: []", "missing key 'benchmarks'"),
        ("benchmarks: {}\nrows: [{paper: hypvit}]", r"missing key 'rows.0.benchmark'"),
        ("- 1", "needs 'benchmarks' and 'rows'"),
    ],
)
def test_published_file_is_read_strictly(text, words):
    with pytest.raises(InputError, match=words):
        load(text)


def test_preset_names_are_offered():
    with pytest.raises(InputError, match="did you mean 'hyp_vits_cub'"):
        load_settings("hyp_vit_cub")
    assert Path(configs_root()).is_dir()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("quickstart_metric_learning", 2 + 5 * 3 + 3 * 3 + 4 + 4),
        ("study_grocery", 2 + 3 + 3 * 3 + 5 + 1 + 5 * 3 + 4 + 4 + 4),
    ],
)
def test_the_words_of_a_study_mean_something(tmp_path, name, count):
    """Every run's settings are sound, and every analysis is of runs that the study makes."""
    pipeline = load_pipeline(name, [f"output={tmp_path}"])
    made, seen = set(), set()
    for step in pipeline.steps.values():
        assert step.words[0] in hcl.COMMANDS.commands
        if step.words[:2] == ("retrieve", "train"):
            settings = load_settings(step.words[2], step.words[3:])
            made.add(settings.output)
            assert step.makes == (f"{settings.output}/result.json",)
            key = settings.model_dump_json(exclude={"output"})
            assert key not in seen, "the same run twice"
            seen.add(key)
            assert settings.model.run in {None, *made}
        if step.words[0] == "analyze":
            arguments = ANALYSES[step.words[1]].parse(step.words[2:])
            runs = getattr(arguments, "items", None) or arguments.runs
            assert {str(run) for run in runs} <= made
            assert step.makes == (f"{arguments.output}/report.html",)
    assert len(made) == count
