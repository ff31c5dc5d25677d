"""Finding configuration files: by path, or by preset name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pretrain.core.errors import InputError
from pretrain.core.text import suggest


def configs_root() -> Path:
    """The folder of presets: ``configs/`` of a checkout, else the one inside the wheel.

    Raises:
        InputError: the installation holds no presets.
    """
    checkout = Path(__file__).resolve().parents[2] / "configs"
    # Beside an installed package, `configs` could be anybody's.
    if (checkout.parent / "setup.py").is_file() and checkout.is_dir():
        return checkout
    spec = importlib.util.find_spec("hcl_configs")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    raise InputError("no presets found: this installation lacks its configs; reinstall it")


def find_config(name: str, kind: str) -> Path:
    """Resolve ``name`` to a file.

    Args:
        name: a path to a YAML file, or a preset's name such as ``quickstart_hcl``.
        kind: the folder of ``configs/`` to search, such as ``pretrain``.

    Raises:
        InputError: nothing matches; the message gives the nearest preset.
    """
    path = Path(name)
    if path.is_file():
        return path
    root = configs_root() / kind
    preset = root / (name if name.endswith(".yaml") else f"{name}.yaml")
    if preset.is_file():
        return preset
    names = sorted(file.stem for file in root.glob("*.yaml"))
    hint = suggest(Path(name).stem, names, f"presets: {', '.join(names)}", cutoff=0.3)
    raise InputError(f"config '{name}': no such file and no such {kind} preset; {hint}")
