"""Packaging. Ranges live here; the tested versions live in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# What detectron2 itself needs; detectron2 is on no index under its own name and is
# installed by tools/install_detectron2.py.
DETECTION = [
    "cloudpickle",
    "faster-coco-eval>=1.8",
    "fvcore",
    "hydra-core",
    "iopath",
    "omegaconf",
    "opencv-contrib-python-headless",
    "packaging",
    "pycocotools>=2.0.8",
    "setuptools<81",
    "tabulate",
    "termcolor",
    "yacs",
]

setup(
    name="hcl-pretrain",
    version="0.1.0",
    description="Self-supervised pretraining for images of scenes with many objects",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # tools/ is a folder of scripts, never a package: detectron2 puts its own top-level
    # `tools` into site-packages.
    packages=[*find_packages(include=["pretrain*", "downstream*", "slurm*"]), "hcl_configs"],
    package_dir={"hcl_configs": "configs"},
    package_data={"hcl_configs": ["**/*.yaml"], "downstream": ["**/*.j2", "**/*.yaml"]},
    py_modules=["hcl"],
    entry_points={"console_scripts": ["hcl = hcl:main"]},
    install_requires=[
        "Jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "pillow>=11",
        "pydantic>=2.10",
        "PyYAML>=6.0",
        "safetensors>=0.5",
        "shtab>=1.7",
        "submitit>=1.5.3,<1.6",
        "tensorboard>=2.18",
        "torch>=2.11",
        "torchvision>=0.26",
        "tqdm>=4.66",
    ],
    extras_require={
        "detection": DETECTION,
        "retrieval": ["faiss-cpu>=1.11", "scipy>=1.11", "timm>=1.0.15"],
        "fast": ["hotcoco>=1.3", "simplejpeg>=1.8"],
        "timm": ["timm>=1.0.15"],
        "proposals": ["opencv-contrib-python-headless>=4.10"],
        "gpu": ["faiss-gpu>=1.11"],
        "dev": [
            "geoopt>=0.5.1",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "mpmath>=1.3",
            "mypy>=1.15",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "types-PyYAML",
        ],
    },
)
