# Two commands do everything: `make search` runs the main job, `make test` runs all tests, lint and types.
# Both set up .venv first; after that they work without a network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# More workers than cores: some tests wait for other processes.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder --durations 20

# Tests start processes of their own, which would compile nasopt again each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: search test lint types pyright proofs litert executorch qemu matrix wheel paths notebooks docs clean
search: $(STAMP)
	$(BIN)/python -m benchmarks_mlperf_tiny search $(ARGS)

# Lint and types run beside the tests; what they say comes after.
test: $(STAMP)
	@$(MAKE) --no-print-directory lint types > $(VENV)/checks.txt 2>&1 & checks=$$!; \
	$(PYTEST) $(ARGS); tests=$$?; \
	wait $$checks; checks=$$?; \
	cat $(VENV)/checks.txt; \
	test $$tests -eq 0 && test $$checks -eq 0

# See proofs/README.md: minutes to hours.
proofs: $(STAMP)
	$(PYTEST) proofs $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/mypy --strict unit_test/user_script.py

# What a user's editor says of every public name. Needs node.
pyright: $(STAMP)
	npx --yes pyright --pythonpath $(BIN)/python unit_test/user_script.py

# torchvision's models are test seeds. Its own requirements would draw another torch, and its compiled operators fit that one alone: it
# comes without them and lies beside the environment, where Lightning, which imports it wherever it is installed, does not find it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,onnx,lightning,optuna,ray,dev]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $(VENV)/torchvision torchvision
	touch $(STAMP)

# LiteRT's and ExecuTorch's packages take 1 GB each beside torch, and disagree: each has an environment of its own. Elsewhere
# their tests are skipped.
LITERT := .venv-litert
litert: $(LITERT)/.installed
	$(LITERT)/bin/python -m pytest -p no:anyio unit_test/export/test_tflite.py unit_test/export/test_vela.py $(ARGS)

$(LITERT)/.installed: pyproject.toml constraints.txt
	test -x $(LITERT)/bin/python || $(PYTHON) -m venv $(LITERT)
	$(LITERT)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,litert,vela,dev]'
	touch $(LITERT)/.installed

EXECUTORCH := .venv-executorch
executorch: $(EXECUTORCH)/.installed
	$(EXECUTORCH)/bin/python -m pytest -p no:anyio unit_test/export/test_executorch.py $(ARGS)

$(EXECUTORCH)/.installed: pyproject.toml constraints.txt
	test -x $(EXECUTORCH)/bin/python || $(PYTHON) -m venv $(EXECUTORCH)
	$(EXECUTORCH)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,executorch,dev]'
	touch $(EXECUTORCH)/.installed

# Oldest and newest torch, Python and numpy: see .ci/matrix (also without a network). Minutes per row.
matrix:
	.ci/matrix $(ARGS)

# The wheel in an environment of its own, and the first steps of a new user.
wheel:
	PYTHON=$(PYTHON) .ci/wheel

# Engineer, student and maintainer: the commands and examples of their pages, run from a fresh clone with the wheel installed.
paths:
	PYTHON=$(PYTHON) .ci/wheel engineer student maintainer

# The notebooks of examples/notebooks, executed: under two minutes each on two cores.
notebooks: $(STAMP)
	$(BIN)/python -m pip install --quiet nbclient ipykernel
	$(BIN)/python examples/notebooks/execute.py $(ARGS)

# The site, links checked: site/index.html. Without a network, too, once its environment is there.
DOCS := .venv-docs
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet $(ARGS)

$(DOCS)/.installed: pyproject.toml
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet 'mkdocs-material>=9.5' 'mkdocstrings[python]>=0.26' ruff
	touch $(DOCS)/.installed

# C programs on Cortex-M: Debian's cross compiler and QEMU, installed where they are missing.
qemu: $(STAMP)
	command -v qemu-system-arm && command -v arm-none-eabi-gcc || apt-get install -y gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
	$(BIN)/python -m pytest unit_test/export/test_c_programs.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-matrix $(DOCS) site $(LITERT) $(EXECUTORCH) results build *.egg-info
