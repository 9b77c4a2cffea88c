# Each target makes .venv, installs what it needs with constraints.txt, and does nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What decides whether the package has to be installed again; Python files are used in place.
BUILD := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
# Build tools are pinned like everything else.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: study test test-all fuzzing lint bench bench-steps performance accuracy docs clean

study: $(VENV)/.study  ## train with and without batch norm, write study/report.html
	$(BIN)/evenkeel study $(ARGS)

test: $(VENV)/.dev  ## everything that runs in ten minutes on two cores
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

test-all: $(VENV)/.dev $(VENV)/.zoo  ## the slow tier too; its summary goes to docs/test-all.md
	$(BIN)/pytest -n 2 --dist worksteal --junitxml=build/test-all.xml $(ARGS)
	$(BIN)/python tests/summarize.py docs/test-all.md build/test-all.xml

fuzzing: $(VENV)/.dev  ## every reader on 20000 damaged files, for an hour or two
	EVENKEEL_FUZZ=20000 $(BIN)/pytest -n 2 tests/checkpoints/test_fuzz.py \
		-k many --junitxml=build/fuzzing.xml $(ARGS)
	$(BIN)/python tests/summarize.py docs/fuzzing.md build/fuzzing.xml

lint: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## time beside every framework, added to benchmarks/results/bench.csv
	$(BIN)/evenkeel bench --csv benchmarks/results/bench.csv $(ARGS)

bench-steps: $(VENV)/.zoo  ## whole training steps, added to benchmarks/results/steps.csv
	$(BIN)/evenkeel bench-steps --csv benchmarks/results/steps.csv $(ARGS)

performance: $(VENV)/.dev  ## tables and plots of README and docs/performance.md, from both files
	$(BIN)/python benchmarks/performance.py

accuracy: $(VENV)/.dev  ## accuracy beside torch, tables of README and docs/numerics.md
	$(BIN)/python benchmarks/accuracy.py $(ARGS)
	$(BIN)/python benchmarks/readme.py

docs: $(VENV)/.docs  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## everything that was built or installed; results stay
	rm -rf $(VENV) build site .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# torchvision has builds for GPUs only that ask for another torch; its model definitions work.
$(VENV)/.zoo: $(VENV)/.dev
	$(BIN)/pip install --quiet --no-deps timm torchvision huggingface_hub
	touch $@

# One stamp for each set of extras; a stamp is newer than what was built from.
$(VENV)/.%: $(BUILD) | $(BIN)/pip
	$(BIN)/pip install --quiet --editable ".[$*]"
	touch $@
