from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.core.errors import InputError
from pretrain.core.locks import alone_in
from pretrain.correspondence import shard_files
from pretrain.correspondence.encode import _batches, center_view
from pretrain.correspondence.shard_files import Shards


def test_shards_are_whole_or_missing(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "parts", np.float32, (2,), [3, 0, 2])
    assert shards.missing() == [0, 1, 2]
    parts = [np.arange(6, dtype=np.float32).reshape(3, 2), np.empty((0, 2), np.float32)]
    parts.append(np.full((2, 2), 7, np.float32))
    for number, part in enumerate(parts):
        shards.write(number, part)
    assert shards.missing() == []
    shards.join(tmp_path / "whole.npy")
    assert np.array_equal(np.load(tmp_path / "whole.npy"), np.concatenate(parts))
    content = shards.file(0).read_bytes()
    shards.file(0).write_bytes(content[:-1])
    np.save(shards.file(2), np.zeros((3, 2), np.float32))  # of another length
    assert shards.missing() == [0, 2]


def test_many_shards_do_not_exhaust_the_files_a_process_may_open(tmp_path: Path) -> None:
    count = shard_files.OPEN_SHARDS + 50
    shards = Shards(tmp_path, np.float16, (), [1] * count)
    for number in range(count):
        shards.write(number, np.array([number], np.float16))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [int(shards.map(number)[0]) for number in range(count)] == list(range(count))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= shard_files.OPEN_SHARDS


def test_a_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), shard_files.replacing(target) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert target.read_bytes() == b"old"
    with (
        pytest.raises(InputError, match="cannot be written"),
        shard_files.replacing(tmp_path / "b/c"),
    ):
        pass


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path),
        pytest.raises(InputError, match="another process is at work"),
        alone_in(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ('{"version": 1}', "damaged"),
        ('{"version": 1, "settings": [], "facts": {}}', "damaged"),
        ('{"version": 99, "settings": {}, "facts": {}}', "version 99, this program needs 1"),
    ],
)
def test_a_bad_manifest(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / shard_files.MANIFEST).write_text(content)
    with pytest.raises(InputError, match=message):
        shard_files.manifest(tmp_path)


def test_claim_and_note(tmp_path: Path) -> None:
    shard_files.claim(tmp_path, {"a": 1, "b": None}, {"seen": 1})
    shard_files.note(tmp_path, "seconds", 2.5)
    shard_files.claim(tmp_path, {"a": 1, "b": None}, {"seen": 2})
    assert shard_files.manifest(tmp_path)["facts"] == {"seen": 2, "seconds": 2.5}
    with pytest.raises(InputError, match="b None instead of 'x', c None instead of 3; choose"):
        shard_files.claim(tmp_path, {"a": 1, "b": "x", "c": 3}, {})
    assert json.loads((tmp_path / shard_files.MANIFEST).read_text())["settings"]["b"] is None


def test_batches_are_full_but_for_the_last() -> None:
    counts = [3, 0, 1, 9, 2, 2]
    values = torch.arange(sum(counts)).view(-1, 1, 1, 1)
    batches = list(_batches(torch.split(values, counts), 4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 1]
    assert torch.equal(torch.cat(batches), values)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (50, 31), (20, 20)])
def test_center_view_is_that_of_torchvision(shape: tuple[int, int]) -> None:
    from torchvision.transforms import functional as tv

    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
    for size, short in ((224, 256), (32, 37)):
        expected = tv.center_crop(tv.resize(image, [short], antialias=True), [size, size])
        view = center_view(image, size)[0]
        assert view.shape == (3, size, size)
        assert (view.int() - expected.int()).abs().max() <= 1
