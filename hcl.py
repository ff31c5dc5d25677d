"""The command line: a table of contents. Each command's module is loaded when it is called."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    # name: (module with `main(argv) -> int`, what it does)
    "data": ("pretrain.datasets.cli", "make, check and look at data sets"),
    "pretrain": ("pretrain.__main__", "self-supervised pretraining"),
    "correspond": ("pretrain.correspondence.cli", "ORL: regions that match across images"),
    "export": ("pretrain.export", "a backbone verified to compute the same function"),
    "detect": ("downstream.detection.cli", "detectron2 fine-tuning and COCO AP"),
    "probe": ("downstream.probe.cli", "linear and k-NN classification with frozen features"),
    "retrieve": ("downstream.retrieval.cli", "Recall@K, Euclidean and hyperbolic; metric learning"),
    "analyze": ("downstream.analysis.cli", "hard negatives, hyperbolicity, norms, sweeps"),
    "compare": ("downstream.compare.cli", "table and report of several runs"),
    "presets": ("slurm.presets", "the configurations that come with the project"),
    "explain": ("slurm.explain", "what a setting means, its default, which presets set it"),
    "pipeline": ("slurm.cli", "several of these commands in order, each once"),
    "submit": ("slurm.submit", "any of these commands as a job of a cluster"),
    "status": ("slurm.watch", "jobs: where they stand, and why they restarted"),
    "cancel": ("slurm.cancel", "end jobs; a run saves first"),
    "logs": ("slurm.logs", "what a job has said"),
}


def usage() -> str:
    """The text of ``hcl --help``."""
    lines = ["usage: hcl COMMAND ...   (hcl COMMAND --help says more)", ""]
    width = max(map(len, COMMANDS))
    lines += [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the user's own mistakes end in a line or two and status 2."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from pretrain import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        from pretrain.core.text import suggest

        hint = suggest(name, COMMANDS, f"commands: {', '.join(COMMANDS)}", prefix="hcl ")
        print(f"hcl: unknown command '{name}'; {hint}", file=sys.stderr)
        return 2
    from pretrain.core.errors import InputError

    try:
        status: int = importlib.import_module(COMMANDS[name][0]).main(rest)
    except InputError as error:
        print(f"hcl {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hcl {name}: interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
