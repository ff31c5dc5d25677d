"""What a finished run was, and what it measured: its result and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downstream.results.analysis_record import Source
from downstream.results.result import FILE_NAME, Result, read_result
from pretrain.core.config import read_yaml
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.run_files import CONFIG
from pretrain.core.text import flat
from pretrain.run import FREE as RUN_FREE

GEOMETRY = "loss.geometry"
OWN_TEMPERATURE = "loss.temperature"

FREE = RUN_FREE | {"seed", "test.batch", "data.root", "data.annotations"}
"""Settings, or sections, in which seeds of one run differ, or that change no result: where a data
set lies says less than its fingerprint, which is compared."""

# Settings of the loss that a geometry does not look at.
_INERT = {
    "sphere": {
        *("temperature_hyperbolic", "weight", "curvature", "clip_radius", "combine"),
        *("ball_input", "numerics"),
    },
    "ball": {"temperature_spherical", "weight", "combine", "ball_input"},
    "mixed": set[str](),
}

_OWN_RANKING = {"sphere": "euclidean", "ball": "hyperbolic", "mixed": "fused"}
_OWN_KEYS = {"sphere": "loss.temperature_spherical", "ball": "loss.temperature_hyperbolic"}


@dataclass(frozen=True)
class FinishedRun:
    """One run.

    Attributes:
        source: its folder and the checksum of its result.
        result: what was measured.
        settings: its configuration by dotted name.
    """

    source: Source
    result: Result
    settings: dict[str, Any]

    @property
    def geometry(self) -> str | None:
        """Of a fine-tuning run's loss."""
        found = self.settings.get(GEOMETRY)
        return found if isinstance(found, str) and found in _INERT else None

    @property
    def acting(self) -> dict[str, Any]:
        """What the result depends on but the seed: settings that act, and the protocol."""
        inert = {f"loss.{name}" for name in _INERT.get(self.geometry or "", ())}
        kept = {
            key: value
            for key, value in self.settings.items()
            if not FREE & {key, key.split(".")[0]} and key not in inert
        }
        return {**kept, **{f"protocol.{k}": v for k, v in flat(self.result.protocol).items()}}

    def setting(self, key: str) -> Any:
        """One setting; ``loss.temperature`` is that of the own geometry.

        Raises:
            InputError: there is no such setting.
        """
        if key == OWN_TEMPERATURE and key not in self.settings:
            if self.geometry not in _OWN_KEYS:
                raise InputError(
                    f"{self.source.path}: has no one temperature; name "
                    "loss.temperature_spherical or loss.temperature_hyperbolic"
                )
            key = _OWN_KEYS[self.geometry]
        if key not in self.settings:
            last = key.rpartition(".")[2]
            near = [known for known in self.settings if known.endswith(last)][:3]
            hint = f"did you mean {' or '.join(near)}?" if near else "see its config.yaml"
            raise InputError(f"{self.source.path}: has no setting '{key}'; {hint}")
        return self.settings[key]

    def metric(self, name: str) -> float:
        """One metric; ``own`` in its name is the ranking of the own geometry.

        Raises:
            InputError: it was not measured.
        """
        known = self.result.metrics
        if name not in known and "/own@" in name and self.geometry is not None:
            name = name.replace("/own@", f"/{_OWN_RANKING[self.geometry]}@")
        if name not in known:
            listed = ", ".join(sorted(key for key in known if key.startswith(name[:6]))[:6])
            raise InputError(
                f"{self.source.path}: has no metric '{name}'; it has {listed or ', '.join(known)}"
            )
        return known[name]


def read_finished(path: Path) -> FinishedRun:
    """Read a run: its ``result.json``, and the ``config.yaml`` beside it or of its checkpoint.

    Args:
        path: of a run of ``hcl retrieve train``; of a result of ``hcl retrieve``; or a folder with
            one result somewhere in it.

    Raises:
        InputError: it is not there, has not finished, or its configuration cannot be found.
    """
    file = _result_file(path)
    result = read_result(file)
    places = [file.parent, path if path.is_dir() else path.parent]
    checkpoint = result.provenance.get("checkpoint")
    if isinstance(checkpoint, str):
        places.append(Path(checkpoint).parent.parent)
    config = next((p / CONFIG for p in places if (p / CONFIG).is_file()), None)
    if config is None:
        raise InputError(
            f"{file}: no {CONFIG} beside it or in the run of its checkpoint ({checkpoint}): what "
            "the run was is not known"
        )
    fingerprint = result.protocol.get("data_fingerprint", result.protocol.get("annotations_sha256"))
    source = Source(
        name=result.run,
        path=str(path),
        sha256=sha256(file),
        step=result.provenance.get("step"),
        fingerprint=fingerprint,
    )
    return FinishedRun(source, result, flat(read_yaml(config)))


def _result_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such run")
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    inside = sorted(path.rglob(FILE_NAME))
    if not inside:
        raise InputError(
            f"{path}: no {FILE_NAME}: not finished; run `hcl retrieve train` to its end, or "
            "`hcl retrieve`"
        )
    if len(inside) > 1:
        raise InputError(f"{path}: {len(inside)} results in it; name the folder of one")
    return inside[0]
