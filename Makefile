# `make demo` and `make test` need nothing but Python 3.11 to 3.13 and make: each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check cover serve-test mobile-test fast-test docs dist lint lint-format lint-rules lint-types lint-imports lint-docker format serve profile plugin gpu-check clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo     export the shipped checkpoint, serve it, classify pictures over HTTP"
	@echo "make test     run the whole test suite"
	@echo "make check    lint, types, contracts and the fast tests, before every commit"
	@echo "make cover    what of the code the whole suite runs"
	@echo "make serve-test  the service's quick tests with nothing but its own packages"
	@echo "make mobile-test  build and run every mobile format (environments of 6 GB)"
	@echo "make lint     formatting, lint, types, import contracts, Dockerfile"
	@echo "make format   rewrite the code in the project's format"
	@echo "make serve    serve the shipped checkpoint on http://127.0.0.1:8000/"
	@echo "make profile  parameters, FLOPs and speed of LaViT-S, PVT-Small and Swin-T here"
	@echo "make plugin   the TensorRT plugin (TENSORRT_INCLUDE=folder of NvInferRuntime.h)"
	@echo "make gpu-check  run everything on this machine's NVIDIA GPU and write a report"
	@echo "make docs     the documentation as a site, built strictly into site/"
	@echo "make dist     the files of a release, after a look at what one must have (docs/releasing.md)"
	@echo "make clean    remove the environment and everything that was built"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing what the demo needs (a minute, once) ..."
	$(PIP) --editable ".[serve,openvino,export]"
	@touch $@

$(VENV)/dev.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing everything that the tests need (two minutes, once) ..."
	$(PIP) --editable ".[serve,openvino,export,profile,train,dev]"
	@touch $@ $(VENV)/run.stamp

$(VENV)/profile.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable ".[serve,openvino,profile]"
	@touch $@

demo: $(VENV)/run.stamp
	$(BIN)/python examples/demo.py

# Two processes, one thread each: most tests use one core. A file's tests stay together, for
# what they share is built once. TESTS=... runs a part, and PYTEST_ADDOPTS is pytest's own.
TESTS ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: $(VENV)/dev.stamp
	$(PYTEST) $(TESTS)

# Types are checked while the tests run; what is printed stays together.
check: $(VENV)/dev.stamp
	$(MAKE) --jobs 2 --output-sync=target fast-test lint

fast-test: $(VENV)/dev.stamp
	$(PYTEST) -m "not slow and not browser" --quiet $(TESTS)

# The floor (pyproject.toml) is that of the whole suite: a part of it ends in 2.
cover: $(VENV)/dev.stamp
	$(PYTEST) --cov --cov-report=term --cov-report=html $(TESTS)

# The service needs no PyTorch and no ONNX: here are its own packages and what its tests need.
.venv-serve/serve.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-serve
	$(subst $(BIN),.venv-serve/bin,$(PIP)) --editable ".[serve]" httpx hypothesis psutil pytest pytest-xdist
	@touch $@

serve-test: .venv-serve/serve.stamp
	@.venv-serve/bin/python .ci/only_the_service.py
	.venv-serve/bin/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not browser" --quiet \
	  $(or $(TESTS),tests/serving)

# An environment for each mobile format: their packages do not fit into one.
MOBILE := executorch litert coreml ncnn
MOBILE_STAMPS := $(MOBILE:%=.venv-%/mobile.stamp)

# litert-torch holds typing_extensions, and with it pydantic, below the versions of constraints.txt;
# its extra names the versions that matter.
.venv-litert/mobile.stamp: MOBILE_PIP = $(subst --constraint constraints.txt,,$(PIP))
MOBILE_PIP = $(PIP)

$(MOBILE_STAMPS): .venv-%/mobile.stamp: pyproject.toml constraints.txt
	@echo "installing the tools of $* (minutes, once) ..."
	$(PYTHON) -m venv .venv-$*
	$(subst $(BIN),.venv-$*/bin,$(MOBILE_PIP)) --editable ".[$*]"
	@touch $@

mobile-test: $(VENV)/dev.stamp $(MOBILE_STAMPS)
	LAVIT_EXECUTORCH_PYTHON="$(abspath .venv-executorch/bin/python)" \
	LAVIT_LITERT_PYTHON="$(abspath .venv-litert/bin/python)" \
	LAVIT_COREML_PYTHON="$(abspath .venv-coreml/bin/python)" \
	LAVIT_NCNN_PYTHON="$(abspath .venv-ncnn/bin/python)" \
	  $(BIN)/python -m pytest tests/export/mobile

lint: lint-format lint-rules lint-types lint-imports lint-docker

lint-format: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .

lint-rules: $(VENV)/dev.stamp
	$(BIN)/ruff check .

lint-types: $(VENV)/dev.stamp
	$(BIN)/mypy

lint-imports: $(VENV)/dev.stamp
	$(BIN)/lint-imports

lint-docker: $(VENV)/dev.stamp
	$(BIN)/hadolint Dockerfile

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/docs.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable ".[docs]"
	@touch $@

# Not --quiet: MkDocs counts the warnings that end a strict build as it prints them.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "built site/index.html"

dist: $(VENV)/dev.stamp
	$(BIN)/python .ci/dist.py

clothes.bundle: $(VENV)/run.stamp examples/lavit_fashion_mnist.pth
	$(BIN)/lavit-export --ckpt examples/lavit_fashion_mnist.pth --out $@ --force

serve: clothes.bundle
	$(BIN)/lavit-serve clothes.bundle

profile: $(VENV)/profile.stamp
	$(BIN)/lavit-profile lavit_s pvt_small swin_tiny --batch 1 8

TENSORRT_INCLUDE ?=
LAVIT_TARGETS ?= 80;86;89;90;120

$(VENV)/plugin.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable ".[export,plugin]"
	@touch $@

plugin: $(VENV)/plugin.stamp
	cmake -S export/plugins -B build/plugin -DLAVIT_PYTHON="$(abspath $(BIN)/python)" \
	  -DTENSORRT_INCLUDE="$(TENSORRT_INCLUDE)" -DLAVIT_TARGETS="$(LAVIT_TARGETS)"
	cmake --build build/plugin
	@echo "built build/plugin/liblavit_plugin.so and liblavit_plugin_autoload.so"

# An environment of its own: ONNX Runtime's package for GPUs and the one for CPUs exclude each other.
.venv-gpu/gpu.stamp: pyproject.toml constraints.txt
	@echo "installing what a GPU is checked with (minutes, once) ..."
	$(PYTHON) -m venv .venv-gpu
	$(subst $(BIN),.venv-gpu/bin,$(PIP)) --editable ".[export,gpu,tensorrt,plugin,profile]" hypothesis pytest
	@touch $@

gpu-check: .venv-gpu/gpu.stamp
	.venv-gpu/bin/python benchmarks/gpu_check.py $(if $(wildcard build/plugin/liblavit_plugin.so),--plugin build/plugin/liblavit_plugin.so)

clean:
	rm -rf $(VENV) dist $(MOBILE:%=.venv-%) .venv-gpu .venv-serve clothes.bundle demo-out build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
