# Each target does the set-up it needs: DIALS, found or installed from Debian's packages, and a
# virtual environment in .venv with the rest (see .ci/make_env.sh).
#
#   make demo     simulate a crystal and refine it
#   make test     run all tests            make test ARGS="-k quartz -x" COVERAGE=1
#   make lint     style, format and types
#   make docs     the pages of docs/ in build/docs
#   make env      the set-up alone         make env PYTHON=/path/of/python3 TORCH=torch
#   make clean    remove all of it

export TORCH ?= torch==2.13.0
# not empty: the lines of the package that the tests run are listed at their end, which takes a tenth more time
COVERAGE ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: env demo docs test lint clean

env: $(READY)

$(READY): setup.cfg pyproject.toml .ci/make_env.sh
	bash .ci/make_env.sh $(VENV)
	touch $@

demo: env
	$(BIN)/python -m dials_hybrid_refine.demo

# a process for each processor, each with one thread; fixtures of a file are made once
test: env
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest --regression -n auto --dist loadfile $(if $(COVERAGE),--cov --cov-report=term) $(ARGS)

lint: env
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

docs: env
	$(BIN)/python -m sphinx -W -n --keep-going docs build/docs

clean:
	rm -rf $(VENV) build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
