# make book   install, run every notebook, build the site
# make pdf    the same, and the whole book as one PDF (needs a Chromium)
# make lab    the notebooks in JupyterLab
# make test   install, then lint and tests
# make test-site  make book, then the tests of the site
# make test-floors  the tests that touch each dependency, on the lowest versions that are declared
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell \
  $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
SITE := book/_build/html/index.html

.PHONY: help install book pdf lab test test-site test-lab test-floors lint clean

help:
	@echo "make book   install, run what is missing or stale, build the site, print its path"
	@echo "make pdf    the same, then print the book as one PDF, to which the site links; needs Chromium"
	@echo "make lab    install JupyterLab too, and open the notebooks in it"
	@echo "make test   install, lint, run the tests"
	@echo "make test-site  make book, then open every page of the site and check it; needs Chromium, npm"
	@echo "make test-lab   the notebooks in a real JupyterLab, which it installs; needs Chromium"
	@echo "make test-floors  tests on the lowest versions that pyproject.toml declares"
	@echo "make lint   install, check style, formatting, layers and types"
	@echo "make clean  remove the site, the executed notebooks and the virtual environment"

install: $(VENV)/installed

# The second pip call adds what PyTorch's build for this machine needs, such as CUDA libraries.
$(VENV)/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it or set PYTHON" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet -c requirements.lock torch
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

book: install
	$(BIN)/jupyter-book build book/ -W --keep-going
	@echo "$(CURDIR)/$(SITE)"

# The site links to the PDF as long as the PDF shows what the site does.
pdf: book
	$(BIN)/python -m repro.book.pdf

# JupyterLab is in no lock: the book and the tests do without it. An editable installation leaves out
# the settings that pyproject.toml names as data files.
$(VENV)/installed-lab: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c requirements.lock --no-build-isolation -e '.[jupyter]'
	mkdir -p $(VENV)/etc/jupyter/labconfig $(VENV)/etc/ipython
	cp src/repro/book/jupyter/default_setting_overrides.json $(VENV)/etc/jupyter/labconfig/
	cp src/repro/book/jupyter/ipython_kernel_config.json $(VENV)/etc/ipython/
	@touch $@

lab: $(VENV)/installed-lab
	$(BIN)/jupyter lab notebooks

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Two processes, each with whole files, because most tests wait for a command to start.
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not site"

# One process: all of them look at the one site, and share a browser.
test-site: book
	$(BIN)/python -m pytest -q -m site tests/book

test-lab: $(VENV)/installed-lab
	$(BIN)/python -m pytest -q tests/book/test_lab.py

# The lowest version of each direct dependency, and the locked PyTorch, of which each is gigabytes.
FLOORS := $(VENV)/floors
FLOOR_TESTS := tests/models/test_registry.py tests/training/test_lora.py \
  tests/inference/test_transformers_engine.py tests/inference/test_sampling.py \
  tests/data/test_task_examples.py
test-floors: install
	$(BIN)/python -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet uv==0.13.9
	$(FLOORS)/bin/uv pip compile --quiet --resolution lowest-direct --no-annotate --no-header \
	  --extra test pyproject.toml | grep -vE '^(torch|triton|nvidia|cuda)' > $(FLOORS)/versions.txt
	grep '^torch==' requirements.lock > $(FLOORS)/torch.txt
	$(FLOORS)/bin/python -m pip install --quiet --no-deps -r $(FLOORS)/versions.txt
	$(FLOORS)/bin/python -m pip install --quiet -r $(FLOORS)/torch.txt
	PYTHONPATH=src $(FLOORS)/bin/python -m pytest -q $(FLOOR_TESTS)

clean:
	rm -rf $(VENV) book/_build book/_executed book/notebooks notebooks/_executed
