# Two commands do everything: `make suite` and `make test`. No other set-up is needed.
.PHONY: suite suite-full test slow lerobot lint format types docs bench gpu wheel lock clean
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
# One thread a process in tests: tiny tensor operations are 3-30 times slower with two.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
# Whole files to each process, so that what a file sets up is set up once; each takes up to 3 GB.
TEST_PROCESSES ?= 2

suite: $(STAMP)
	@$(BIN)/lary suite

suite-full: $(STAMP)
	@$(BIN)/lary suite suite=full

test: $(STAMP)
	@$(TEST_ENV) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

slow: $(STAMP)
	@$(TEST_ENV) $(BIN)/python -m pytest -m slow

# Our LeRobot parts against any checkout of it: make lerobot LEROBOT=../lerobot
lerobot: $(STAMP)
	@[ -d "$(LEROBOT)/src/lerobot" ] || { echo "expected LEROBOT=<folder of a checkout with src/lerobot>; got '$(LEROBOT)'"; exit 2; }
	@PYTHONPATH="$(abspath $(LEROBOT))/src" $(TEST_ENV) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile tests/policy

gpu: $(STAMP)
	@$(BIN)/python benchmarks/gpu.py

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Its packages are not among those of the environment: they have one of their own, on top of it.
docs: $(STAMP)
	@[ -x outputs/docs-env/bin/mkdocs ] || { $(BIN)/python -m venv --without-pip outputs/docs-env && \
	  $(BIN)/uv pip install --quiet --python outputs/docs-env/bin/python --require-hashes --requirement docs/requirements.lock; }
	@PYTHONPATH="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'):.:envs" HF_HUB_OFFLINE=1 \
	  NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true outputs/docs-env/bin/python -m mkdocs build --quiet
	@echo outputs/site/index.html

bench: $(STAMP)
	@$(BIN)/python benchmarks/run.py encode --json

wheel: $(STAMP)
	@rm -rf dist
	@UV_PYTHON_DOWNLOADS=never $(BIN)/uv build --quiet --python $(BIN)/python --out-dir dist

# Compiling what is imported takes 10 s of one core: what later stages need is imported here, beside them.
# A bare environment is made at once; pip, for whoever wants it, is one package more.
IMPORTED := mujoco_warp, timm, transformers.models.dinov2.modeling_dinov2, onnx, matplotlib.figure, imageio.v3

$(STAMP): requirements.lock pyproject.toml
	@PYTHON="$$(bash .ci/find-python)" && \
	  { [ -x $(BIN)/python ] || { echo "making $(VENV) with $$PYTHON"; "$$PYTHON" -m venv --without-pip $(VENV); }; } && \
	  { [ -x $(BIN)/uv ] || "$$PYTHON" -m pip --python $(BIN)/python install --quiet --disable-pip-version-check "uv>=0.5,<1" || \
	    { $(BIN)/python -m ensurepip && $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"; }; }
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/python -c "import $(IMPORTED)" >/dev/null 2>&1 &
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps pip --editable .
	@touch $(STAMP)

# Hash-pinned and free of addresses.
lock:
	@$(BIN)/uv pip compile pyproject.toml --extra sim --extra weights --extra metaworld --group dev --universal --python-version 3.12 \
	  --generate-hashes --no-annotate --no-header --quiet --output-file requirements.lock
	@$(BIN)/uv pip compile docs/requirements.in --universal --python-version 3.12 \
	  --generate-hashes --no-annotate --no-header --quiet --output-file docs/requirements.lock

clean:
	@rm -rf $(VENV) dist build outputs
