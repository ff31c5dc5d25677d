# Two commands: `make quickstart` and `make test`. They need Python (3.11 or newer), pip and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 3 # one more than two cores: tests on Slurm mostly wait
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

.PHONY: help install quickstart test test-quick test-slurm lint format clean

help:
	@echo "make quickstart  install, then pretrain, evaluate and compare three networks on drawn scenes"
	@echo "make test        the whole test suite"
	@echo "make test-quick  a part of it that touches every package, in a few minutes"
	@echo "make test-slurm  of these, the jobs on a real Slurm, which it gets and starts itself"
	@echo "make lint        ruff, mypy, import directions"
	@echo "make format      ruff format"
	@echo "make install     the environment alone ($(VENV))"

install: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt tools/install_detectron2.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "HCL needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt setuptools wheel
	$(PIP) install --quiet --constraint constraints.txt --editable '.[detection,retrieval,fast,timm,dev]'
	$(BIN)/python tools/install_detectron2.py
	touch $@

quickstart: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/quickstart.sh

test: install
	$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-quick: install
	$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder -m quick

test-slurm: install
	$(PYTEST) tests/slurm

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
