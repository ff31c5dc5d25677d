"""`make test-quick` touches every package, and every file that it names is there."""

from __future__ import annotations

from pathlib import Path

from order_of_tests import QUICK, TESTS

ROOT = TESTS.parent


def packages() -> list[str]:
    """Folders of modules one and two levels down that have tests of their own."""
    folders = [*ROOT.glob("pretrain/*"), *ROOT.glob("downstream/*"), ROOT / "slurm"]
    found = [folder.relative_to(ROOT) for folder in folders if (folder / "__init__.py").is_file()]
    return [str(folder) for folder in found if (TESTS / folder).is_dir()]


def test_every_name_is_a_file() -> None:
    assert {path.stem for path in TESTS.rglob("test_*.py")} >= QUICK


def test_every_package_is_touched() -> None:
    assert len(packages()) >= 14
    for package in packages():
        names = {path.stem for path in Path(TESTS / package).rglob("test_*.py")}
        assert names & QUICK, package
