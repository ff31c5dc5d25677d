#!/usr/bin/env python3
"""Install detectron2 into the environment of the interpreter that runs this script.

detectron2 is on no package index under its own name. In this order:

1. an installation that already imports is left alone;
2. the official source, where github.com answers (it compiles; a few minutes);
3. `sal-detectron2`, an index wheel of detectron2's main branch of 2023, by version and hash.
   Its compiled part is built for another Python and stays unused: rotated boxes and
   deformable convolutions are missing; Mask R-CNN is not affected.

Only the standard library is used. Run it as often as you like; status 1 and a message on failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

GIT = "https://github.com/facebookresearch/detectron2.git"
WHEEL = "sal-detectron2==0.7.2"
WHEEL_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
# The wheel is pure Python but for its unused extension; its tag names Python 3.10.
WHEEL_TAGS = ["--python-version", "3.10", "--implementation", "cp", "--abi", "cp310"]
WHEEL_TAGS += ["--abi", "none"]
# The wheel's own list omits fvcore and iopath and asks for an old numpy that it does not need.
REQUIREMENTS = [
    *("cloudpickle", "fvcore", "hydra-core", "iopath", "matplotlib", "omegaconf"),
    *("opencv-contrib-python-headless", "packaging", "pycocotools"),
    "setuptools<81",  # detectron2.model_zoo imports pkg_resources
    *("tabulate", "tensorboard", "termcolor", "tqdm", "yacs"),
]
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
PROBE_SECONDS = 15

Run = Callable[[Sequence[str], float | None], "tuple[int, str]"]


class InstallError(Exception):
    """The installation cannot go on; the message says why and what to do."""


def run(command: Sequence[str], timeout: float | None = None) -> tuple[int, str]:
    """Run ``command``; return its status and its output, both streams together."""
    # Never wait for a password: a probe must fail, not ask.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {timeout:g} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout


def imports(run: Run, *modules: str) -> tuple[bool, str]:
    """Whether ``modules`` import in a fresh interpreter, and the last line of its output."""
    # A fresh one, away from this folder: what counts is the environment.
    code = f"import {', '.join(modules)}; print({modules[0]}.__version__, {modules[0]}.__file__)"
    status, output = run([sys.executable, "-P", "-c", code], None)
    return status == 0, _last_line(output)


def pip(run: Run, *arguments: str) -> tuple[bool, str]:
    """Run pip's ``install`` under the project's tested versions."""
    constraints = ["--constraint", str(CONSTRAINTS)] if CONSTRAINTS.is_file() else []
    status, output = run([sys.executable, "-m", "pip", "install", *constraints, *arguments], None)
    return status == 0, output


def from_source(run: Run, say: Callable[[str], None]) -> bool:
    """Build the official source; False, with the reason said, where that cannot be done."""
    if shutil.which("git") is None:
        say("official source: git is not installed; skipped")
        return False
    status, output = run(["git", "ls-remote", GIT, "HEAD"], PROBE_SECONDS)
    if status:
        say(f"official source: not reachable ({_last_line(output)}); skipped")
        return False
    say(f"official source: building {GIT} (minutes)")
    done, output = pip(run, "--no-build-isolation", f"git+{GIT}")
    if not done:
        say(f"official source: the build failed ({_last_line(output)}); skipped")
    return done


def from_wheel(run: Run, say: Callable[[str], None]) -> None:
    """Install the index wheel by version and hash, then what it needs."""
    site = sysconfig.get_paths()["purelib"]
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        # pip itself refuses a file whose hash differs.
        pinned.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"]
        command += [*WHEEL_TAGS, "--target", site, "--require-hashes", "--requirement", str(pinned)]
        status, output = run(command, None)
    if status:
        raise InstallError(f"wheel {WHEEL}: pip failed\n{output.strip()}")
    say(f"wheel {WHEEL}: installed into {site}, sha256 as expected")
    requirements(run, say)


def requirements(run: Run, say: Callable[[str], None]) -> None:
    """Install the Python packages that detectron2 imports."""
    done, output = pip(run, *REQUIREMENTS)
    if not done:
        raise InstallError(f"requirements: pip failed\n{output.strip()}")
    say(f"requirements: {len(REQUIREMENTS)} packages present")


def install(run: Run, say: Callable[[str], None], source: str = "auto") -> None:
    """Make detectron2 importable.

    Raises:
        InstallError: it cannot be done.
    """
    ready, found = imports(run, "detectron2", "detectron2.model_zoo")
    if ready:
        say(f"already installed: detectron2 {found}")
        return
    status, output = run([sys.executable, "-m", "pip", "--version"], None)
    if status:
        raise InstallError(f"no pip ({_last_line(output)}); run {sys.executable} -m ensurepip")
    ready, found = imports(run, "torch", "torchvision")
    if not ready:
        raise InstallError(f"torch does not import ({found}); install the project first")
    if imports(run, "detectron2")[0]:
        say("detectron2 is there, but not all that it needs")
        requirements(run, say)
    else:
        built = source != "wheel" and from_source(run, say)
        if not built:
            if source == "git":
                raise InstallError("the official source could not be installed; try --source wheel")
            from_wheel(run, say)
    ready, found = imports(run, "detectron2", "detectron2.model_zoo")
    if not ready:
        raise InstallError(f"installed, but it does not import: {found}")
    say(f"verified: detectron2 {found}")


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "no output"


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--source",
        choices=("auto", "git", "wheel"),
        default="auto",
        help="where from (default: auto, the official source where reachable, else the wheel)",
    )
    arguments = parser.parse_args(argv)
    try:
        install(run, lambda line: print(line, flush=True), arguments.source)
    except InstallError as failure:
        print(f"install_detectron2: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
