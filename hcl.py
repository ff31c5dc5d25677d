"""The command line: a table of contents. Each command's module is loaded when it is called."""

from __future__ import annotations

import os
import sys

from pretrain.core.command import Entry, Group

_PREPARE = "pretrain.datasets.commands.prepare"
_OF_INDEX = "pretrain.datasets.commands.index_commands"
_SCENES = "pretrain.datasets.commands.scenes"
_JOBS = "slurm.job_commands"
_RETRIEVAL_SETS = "downstream.retrieval.datasets.prepare"
_ANALYSES = "downstream.analysis.cli"

PREPARE = Group(
    "a known set: archives or folders, indexed",
    {
        "coco": Entry(_PREPARE, "COCO 2017, or any file of its format", "coco"),
        "lvis": Entry(_PREPARE, "LVIS v1, on COCO's images", "lvis"),
        "openimages": Entry(_PREPARE, "OpenImages V4 to V7 boxes", "openimages"),
        "voc": Entry(_PREPARE, "Pascal VOC 2007 and 2012, or data in its form", "voc"),
        "ohms": Entry(_PREPARE, "the official dictionaries of HCL's subset of OpenImages", "ohms"),
        "folder": Entry(_PREPARE, "any folder of images, without boxes", "folder"),
        "miniplaces": Entry(_PREPARE, "100 kinds of scenes, objects in some", "miniplaces"),
        "scenes": Entry(_SCENES, "the same as hcl data scenes"),
        "cub": Entry(_RETRIEVAL_SETS, "CUB-200-2011, to fine-tune for retrieval", "cub"),
        "cars": Entry(_RETRIEVAL_SETS, "Cars-196, likewise", "cars"),
        "sop": Entry(_RETRIEVAL_SETS, "Stanford Online Products, likewise", "sop"),
        "inshop": Entry(_RETRIEVAL_SETS, "In-Shop Clothes Retrieval, likewise", "inshop"),
        "grocery": Entry(_RETRIEVAL_SETS, "Grocery Store Dataset, likewise", "grocery"),
    },
    purpose="Make an index of a data set, or check one of metric learning.",
)

DATA = Group(
    "make, check and look at data sets",
    {
        "prepare": PREPARE,
        "check": Entry(_OF_INDEX, "read every image and box of an index", "check"),
        "show": Entry("pretrain.show", "a contact sheet of what a run sees of an index"),
        "stats": Entry(_OF_INDEX, "counts, sizes and classes of an index", "stats"),
        "propose": Entry(
            "pretrain.datasets.commands.propose", "an index with boxes for images without"
        ),
        "pack": Entry(_OF_INDEX, "images decoded and shrunk once, for training", "pack"),
        "select": Entry(_OF_INDEX, "an index of the images of several classes", "select"),
        "scenes": Entry(_SCENES, "generate scenes of many objects from a seed"),
        "crops": Entry(
            "downstream.retrieval.datasets.crop_folder", "objects as a folder of class folders"
        ),
    },
    purpose="Make, check and look at data sets.",
)

RETRIEVE = Group(
    "Recall@K, Euclidean and hyperbolic; metric learning",
    {
        "train": Entry("downstream.retrieval.finetune.train_cli", "fine-tune for retrieval"),
        "eval": Entry("downstream.retrieval.finetune.eval_cli", "evaluate a fine-tuned network"),
    },
    default=Entry("downstream.retrieval.cli", "Recall@K of object crops"),
)

CORRESPOND = Group(
    "ORL: regions that match across images",
    {"show": Entry("pretrain.correspondence.show", "a picture of matched regions")},
    default=Entry("pretrain.correspondence.cli", "a table of pairs"),
)

ANALYZE = Group(
    "hard negatives, hyperbolicity, norms, sweeps",
    {
        "hard-negatives": Entry(
            _ANALYSES,
            "which negatives a loss weighs, and whether two models agree",
            "hard-negatives",
        ),
        "delta": Entry(
            _ANALYSES, "how like a tree embeddings are, and the curvature that would fit", "delta"
        ),
        "norms": Entry(
            _ANALYSES, "norms of embeddings and distances from the center of the ball", "norms"
        ),
        "sweep": Entry(_ANALYSES, "a metric of finished runs over one of their settings", "sweep"),
    },
)

COMMANDS = Group(
    "",
    {
        "data": DATA,
        "pretrain": Entry("pretrain.__main__", "self-supervised pretraining"),
        "correspond": CORRESPOND,
        "export": Entry("pretrain.export", "a backbone verified to compute the same function"),
        "detect": Entry("downstream.detection.cli", "detectron2 fine-tuning and COCO AP"),
        "probe": Entry(
            "downstream.probe.cli", "linear and k-NN classification with frozen features"
        ),
        "retrieve": RETRIEVE,
        "analyze": ANALYZE,
        "compare": Entry("downstream.compare.cli", "table and report of several runs"),
        "presets": Entry("slurm.list_presets", "the configurations that come with the project"),
        "explain": Entry("slurm.explain", "what a setting means, its default, presets that set it"),
        "completion": Entry("slurm.completion", "a script that makes the shell complete all this"),
        "pipeline": Entry("slurm.cli", "several of these commands in order, each once"),
        "submit": Entry("slurm.submit", "any of these commands as a job of a cluster"),
        "status": Entry(_JOBS, "jobs: where they stand, and why they restarted", "status"),
        "cancel": Entry(_JOBS, "end jobs; a run saves first", "cancel"),
        "logs": Entry(_JOBS, "what a job has said", "logs"),
    },
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the user's own mistakes end in a line or two and status 2."""
    words = sys.argv[1:] if argv is None else argv
    name = f"hcl {words[0]}" if words and words[0] in COMMANDS.commands else "hcl"
    from pretrain.core.errors import InputError

    try:
        status = _run(words or ["--help"])
        sys.stdout.flush()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # As in `hcl --help | head -1`: nobody reads on. The interpreter would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return status


def _run(words: list[str]) -> int:
    if words[0] == "--version":
        from pretrain import __version__

        print(__version__)
        return 0
    if words[0] in ("-h", "--help"):
        print(COMMANDS.help(""))
        return 0
    command, rest = COMMANDS.find(words)
    return command.main(rest)


if __name__ == "__main__":
    sys.exit(main())
