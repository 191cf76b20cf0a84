# Two verbs do everything on a fresh machine: `make demo` and `make test`. The environment is made when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
EXPERIMENTS := density_2d learning_rates density_tabular fit_time hnn hnn_speed solar_system lnn lnn_speed hnn_pixels hgn hgn_speed posteriors guide_speed calibration physics_in_pyro benchmarks/run

# One thread a process: the tests run in two processes, and threads that outnumber the cores slow each other down.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs experiments install clean

help:  ## List the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 22

demo: $(READY)  ## Fit a flow to a real data set; samples, scores and figures go to results/demo/
	MPLBACKEND=Agg $(BIN)/python experiments/demo.py

test: $(READY)  ## Run all tests, the doctests and every example in the docs
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --durations=10

lint: $(READY)  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

format: $(READY)  ## Let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## Build the documentation; a warning is an error
	$(ONE_THREAD) $(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

experiments: $(READY)  ## Re-create every table and figure in results/ (hours; resumes where it stopped)
	for name in $(EXPERIMENTS); do $(BIN)/python experiments/$$name.py --jobs 2 || exit 1; done

install: $(READY)  ## Make the environment in .venv

clean:  ## Remove what the other verbs made, but not results/
	rm -rf $(VENV) docs/_build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is pinned in the same pip call: an open range would pull several gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hamflow needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV), a few minutes the first time'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
