# Two commands on a fresh machine: `make demo` and `make test`. They need python3 (3.10 or newer, with
# venv), a C++20 compiler and make; everything else is installed into .venv in this checkout.
#
# A set-up step leaves a stamp in .venv, so the second run does only what changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip unpacks packages of hundreds of megabytes, which a small TMPDIR does not hold.
TMP := TMPDIR="$(CURDIR)/$(VENV)/tmp"
INSTALL := $(TMP) $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PACKAGE := $(INSTALL) --no-build-isolation --editable
CXX_FILES = $(shell find csrc -name '*.h' -o -name '*.inc' -o -name '*.cc' -o -name '*.cu')
# Bindings are macros of pybind11, and one instruction set's file is the text of another's.
TIDY_FILES = $(shell find csrc -name '*.cc' -not -path '*/bind/*' -not -path '*/probe/*' -not -name '*_avx*' -not -name '*_vnni*')
TIDY_DONE = $(TIDY_FILES:csrc/%.cc=build/tidy/%.done)

export CMAKE_BUILD_PARALLEL_LEVEL ?= 2

.PHONY: demo demo-real demo-small test exact sanitize gpu-check nsys ncu peers clients clients-test real-model lint tidy format hook clean

demo: $(VENV)/.built
	@if $(BIN)/sbrt fetch smollm2; then part=demo-real; else part=demo-small; fi; \
	$(MAKE) --no-print-directory $$part

demo-real:
	$(BIN)/sbrt demo --png compare.png

demo-small:
	@echo "The small pair, which is part of the package, follows instead."
	$(BIN)/sbrt compare --png compare.png --then-simulate c=8

# TEST_JOBS processes share the files of tests, in the order that tests/conftest.py gives them.
# Most tests keep one core busy. Many start Python again, which must not compile every module anew.
TEST_JOBS ?= 2
test: $(VENV)/.built lint $(VENV)/.test-tools
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

exact: $(VENV)/.built $(VENV)/.test-tools
	$(BIN)/python -m pytest -m "exact and not gpu"

# ThreadSanitizer, AddressSanitizer and UBSan over the C++ and over generations in Python.
sanitize: $(VENV)/.built $(VENV)/.test-tools
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m sanitize tests/sanitize tests/decode

# Checks that need a CUDA device; the results go to gpu-check.json. PART=first is the shortest look at
# everything, PART=kernels the kernels' tests and bench, PART=products those of `linear`, PART=lanes
# those of recorded lanes, PART=rounds engines by the clock, PART=exact engines against plain
# decoding, PART=settings what the other parts leave out, PART=large the exact ones at the size of an
# 8B, PART=sanitize a decode under compute-sanitizer. Without a device it says so and fails. Steps
# that have ended are kept; FRESH=1 starts over. GPU_PYTHON=python3 takes an environment of your own.
PART ?= first
GPU_PYTHON ?= $(BIN)/python
GPU_BUILT = $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.built $(VENV)/.test-tools)
gpu-check: $(GPU_BUILT)
	$(GPU_PYTHON) -m tests.device.check --part $(PART) --json gpu-check.json $(if $(FRESH),--fresh)

# A short decode under Nsight Systems or Nsight Compute (docs/profiling.md). DECODE="--methods pearl":
# flags of bench.gpu.decode.
nsys ncu: $(GPU_BUILT)
	$(GPU_PYTHON) -m bench.gpu.nsight $@ -- $(DECODE)

# The other engines that bench.peers measures, each in an environment of its own; transformers is in
# .venv already. If one cannot be set up, the others are still set up.
PEERS := llama openvino
peers: $(VENV)/.built $(VENV)/.test-tools
	@$(MAKE) --no-print-directory --keep-going $(PEERS:%=.venv-peers/%/.done)

# Packages that an install adds and that must not stay. bench/peers/openvino.txt and
# bench/clients/vllm.txt say why.
UNWANTED_openvino := torchvision
UNWANTED_vllm := torchvision torchaudio torchcodec
PEER_PIP = $(TMP) .venv-peers/$*/bin/python -m pip --disable-pip-version-check
.venv-peers/%/.done: bench/peers/%.txt
	@echo "setting up $*, a peer of the benches (llama compiles for about ten minutes)"
	$(PYTHON) -m venv .venv-peers/$*
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" $(PEER_PIP) install --quiet -r $<
	$(if $(UNWANTED_$*),$(PEER_PIP) uninstall --quiet --yes $(UNWANTED_$*))
	@touch $@

# Clients of the server, and servers that run it in their own way, each in an environment of its own
# (bench/clients lists their packages). If one cannot be set up, the others are still set up.
CLIENTS := openai guidellm aiperf lm_eval vllm ray dynamo
clients: $(VENV)/.built $(VENV)/.test-tools
	@$(MAKE) --no-print-directory --keep-going $(CLIENTS:%=.venv-clients/%/.done)

clients-test: clients
	$(BIN)/python -m pytest -m clients tests/clients

# Packages that are installed without their dependencies (bench/clients/dynamo.txt says why).
ALONE_dynamo := ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
CLIENT_PIP = $(TMP) .venv-clients/$*/bin/python -m pip --disable-pip-version-check install --quiet
.venv-clients/%/.done: bench/clients/%.txt constraints.txt
	@echo "setting up $*"
	$(PYTHON) -m venv .venv-clients/$*
	$(CLIENT_PIP) -r $<
	$(if $(ALONE_$*),$(CLIENT_PIP) --no-deps $(ALONE_$*))
	$(if $(UNWANTED_$*),.venv-clients/$*/bin/python -m pip uninstall --quiet --yes $(UNWANTED_$*))
	$(if $(filter $*,$(EMBEDDERS)),$(CLIENT_PIP) --force-reinstall --no-deps build/wheel/sbrt-*.whl)
	@touch $@

# Environments that run the package themselves. They get it as a wheel: a second editable install
# would share the build of the first.
EMBEDDERS := ray dynamo
$(EMBEDDERS:%=.venv-clients/%/.done): build/wheel/.done
build/wheel/.done: $(VENV)/.built $(shell find sbrt triton_kernels -type f -not -name '*.pyc')
	rm -rf build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip --disable-pip-version-check wheel --quiet \
	  --no-deps --no-build-isolation --wheel-dir build/wheel .
	@touch $@

# A real model of 98 MB for the demo, tests and benches, outside the checkout.
real-model: $(VENV)/.built
	$(BIN)/sbrt fetch smollm2

lint: $(VENV)/.style-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	@$(MAKE) --no-print-directory -j $(CMAKE_BUILD_PARALLEL_LEVEL) tidy

tidy: $(TIDY_DONE)
	@:

# Any file may include a header, so each depends on all headers. Several files are checked at once,
# and each has a stamp.
build/tidy/%.done: csrc/%.cc $(filter %.h %.inc,$(CXX_FILES)) .clang-tidy $(VENV)/.style-tools
	$(BIN)/clang-tidy --quiet $< -- -std=c++20 -Icsrc
	@mkdir -p $(@D) && touch $@

format: $(VENV)/.style-tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

hook:
	ln -sf ../../.ci/pre-commit .git/hooks/pre-commit

clean:
	rm -rf $(VENV) build/cp*

$(VENV)/tmp:
	@mkdir -p $@

# The environment, with the tools of a build: cmake and ninja too, so that none need be on PATH.
$(VENV)/.tools: constraints.txt | $(VENV)/tmp
	@$(PYTHON) -c "import sys; v = sys.version_info; \
	  v < (3, 10) and sys.exit(f'python3: expected 3.10 or newer, got {v[0]}.{v[1]}')"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) scikit-build-core pybind11 cmake ninja
	@touch $@

$(VENV)/.style-tools: $(VENV)/.tools | $(VENV)/tmp
	$(INSTALL) ruff clang-format clang-tidy
	@touch $@

# `find csrc` names the folders too: a deleted file changes its folder.
$(VENV)/.built: $(VENV)/.tools CMakeLists.txt pyproject.toml $(shell find csrc) | $(VENV)/tmp
	@echo "building sbrt"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PACKAGE) ".[plot]"
	@touch $@

$(VENV)/.test-tools: constraints.txt pyproject.toml | $(VENV)/.built $(VENV)/tmp
	@echo "installing what the tests need (torch among it)"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PACKAGE) ".[test]"
	@touch $@
