from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import hcl
from pretrain.data import contact_sheet
from pretrain.data.augment import AugmentSettings
from pretrain.data.contact_sheet import CELL, WARNING, denormalized, sample, sheet
from pretrain.data.index import Index
from pretrain.data.loader import build_loader
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.data.plan import Crop, ViewPlan
from pretrain.data.views import ViewSettings
from pretrain.datasets.source import DataSettings, open_index

PLAN = ViewPlan(
    16,
    (
        Crop("first", "object_context", random_resized=True),
        Crop("object", "object", random_resized=False),
    ),
)
VIEWS = ViewSettings(size=16, min_box_area=16, context=24)
PLAIN = AugmentSettings(jitter_p=0, gray_p=0, blur_p=0, flip_p=0)


@pytest.fixture
def index(make_coco, tmp_path) -> Index:
    folder = make_coco(8)
    return open_index(
        DataSettings(
            annotations=str(folder.annotations),
            images=str(folder.images),
            index=str(tmp_path / "index"),
        )
    )


def test_a_sample_is_what_the_loader_gives(index):
    augment = AugmentSettings()
    batch = next(
        iter(
            build_loader(
                index, PLAN, VIEWS, augment, batch_size=8, seed=5, start_step=0, total_steps=1
            )
        )
    )
    for place, row in enumerate(batch.rows.tolist()):
        one = sample(index, PLAN, VIEWS, augment, seed=5, epoch=0, row=row)
        assert one.fallback == batch.fallback[place]
        for name in batch.images:
            assert torch.equal(one.before[name], batch.images[name][place])


def test_without_augmentation_before_and_after_agree(index):
    one = sample(index, PLAN, VIEWS, PLAIN, seed=5, epoch=0, row=4)
    for name in one.before:
        assert torch.equal(one.before[name], one.after[name])


def test_denormalized():
    settings = AugmentSettings()
    view = torch.full((3, 2, 2), 0.5)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    assert (denormalized((view - mean) / std, settings) == 128).all()


def test_views_stand_where_they_should_and_fallbacks_are_marked(index):
    rows = [4, 0]  # four boxes, and none
    samples = [sample(index, PLAN, VIEWS, PLAIN, seed=5, epoch=0, row=row) for row in rows]
    assert [one.fallback for one in samples] == [False, True]
    picture = np.asarray(sheet(samples, PLAN, "heading"))
    height = (len(picture) - 3 * contact_sheet.LINE - contact_sheet.GAP) // 2
    for number, one in enumerate(samples):
        top = 3 * contact_sheet.LINE + contact_sheet.GAP + number * height
        marked = (picture[top : top + height] == WARNING).all(-1).sum()
        assert (marked > 500) == one.fallback
        for column, name in enumerate(("first", "object", "first", "object")):
            x = contact_sheet._column(column, PLAN)
            cell = picture[top + contact_sheet.LINE :][:CELL, x : x + CELL]
            expected = Image.fromarray(one.before[name].permute(1, 2, 0).contiguous().numpy())
            expected = expected.resize((CELL, CELL), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(cell, np.asarray(expected))


def test_windows_are_drawn_on_the_image(index):
    one = sample(index, PLAN, VIEWS, PLAIN, seed=5, epoch=0, row=4)
    overview = np.asarray(contact_sheet._overview(one, PLAN))
    scale = overview.shape[1] / one.image.shape[2]
    x1, y1, x2, y2 = one.windows["object"]  # drawn last
    middle = round((y1 + y2) / 2 * scale)
    for x in (x1 * scale, x2 * scale - 1):
        edge = overview[middle, max(0, round(x) - 1) : round(x) + 2]
        assert (edge == contact_sheet.COLORS[1]).all(-1).any()
    plain = overview.reshape(-1, 3)
    assert (plain == (255, 255, 255)).all(1).any()  # boxes


CONFIG = """
output: {0}/run
data: {{annotations: {0}/set/instances.json, images: {0}/set/images}}
views: {{size: 16, min_box_area: 16, context: 24}}
model: {{backbone: resnet18}}
method: {{name: moco, queue: 16, norm_group: 2}}
hcl: {{queue: 16}}
optim: {{batch_size: 4}}
train: {{steps: 1}}
"""


@pytest.fixture
def config(index, tmp_path) -> str:
    file = tmp_path / "run.yaml"
    file.write_text(CONFIG.format(tmp_path))
    return str(file)


def test_command(index, config, tmp_path, capsys):
    index.path(3).write_bytes(b"no image")
    out = tmp_path / "new/sheet.png"
    arguments = ["data", "show", str(index.folder), "--config", config, "--output", str(out)]
    assert hcl.main([*arguments, "--rows", "0,3,4"]) == 0
    output = capsys.readouterr().out
    assert "3 rows, 1 of them with too few boxes, 1 unreadable" in output
    assert "unreadable: row 3" in output
    first = out.read_bytes()
    assert Image.open(out).format == "PNG"
    assert hcl.main([*arguments, "--rows", "0,3,4"]) == 0
    assert out.read_bytes() == first
    assert hcl.main([*arguments, "--rows", "0,3,4", "seed=1"]) == 0
    assert out.read_bytes() != first
    assert hcl.main([*arguments, "--count", "2"]) == 0


def test_command_with_pairs(index, config, tmp_path, capsys):
    boxes = np.array([[2, 2, 30, 30]], np.float32)
    rows = [[Neighbor((row + 1) % 8, boxes, boxes)] if row else [] for row in range(8)]
    PairTable.build(index.fingerprint, rows).write(tmp_path / "pairs")
    out = tmp_path / "sheet.png"
    arguments = ["data", "show", str(index.folder), "--config", config, "--output", str(out)]
    arguments += ["--rows", "0,4", "method.crops=pair_key", "hcl=null"]
    assert hcl.main(arguments) == 2
    assert "data.pairs: not set, but the views view_1, view_2" in capsys.readouterr().err
    assert hcl.main([*arguments, f"data.pairs={tmp_path / 'pairs'}"]) == 0
    assert "1 of them with too few boxes or no pair" in capsys.readouterr().out
    assert Image.open(out).width > 2 * contact_sheet.WIDE


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["augment.views={view_3: {flip_p: 0.0}}"], "augment.views: no view 'view_3'"),
        (["--rows", "1,x"], "give numbers between commas"),
        (["--rows", "8"], "rows 0 to 7, not 8"),
        (["--count", "0"], "--count 0"),
        (["--epoch", "-1"], "--epoch -1"),
    ],
)
def test_mistakes(index, config, tmp_path, capsys, more, message):
    arguments = ["data", "show", str(index.folder), "--config", config]
    assert hcl.main([*arguments, "--output", str(tmp_path / "a.png"), *more]) == 2
    assert message in capsys.readouterr().err


def test_out_that_cannot_be_written(index, config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file/sheet.png")
    arguments = ["data", "show", str(index.folder), "--config", config, "--output", out]
    assert hcl.main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err
