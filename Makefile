# make demo   set everything up and draw a picture          make test   set everything up and run the tests
# make check  lint and types   make docs  build the docs   make bench  benchmarks   make test-long  the slow tests too
#
# PYTHON chooses the interpreter (3.11 or newer), VENV the folder. A second run only checks that nothing changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.PHONY: demo test test-long check docs bench clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/demo.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

# LONG narrows it to a cut: make test-long LONG="tests/models"
test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m long $(LONG)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@$(BIN)/python docs/check_site.py
	@echo "site/index.html"

bench: $(READY)
	$(BIN)/python benchmarks/transformer.py

clean:
	rm -rf $(VENV) site build .pytest_cache .mypy_cache .ruff_cache
