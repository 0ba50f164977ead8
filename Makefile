# Everything starts from a fresh clone: each target makes the environment it needs, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint docs gpu clean

help:
	@echo "make demo    walk the whole road on this machine: data, shards, training, finetuning, report (ten minutes)"
	@echo "make test    lint, then all tests"
	@echo "make test-variants  the same tests for one more type or data set each"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the site of docs/, as build/docs/index.html"
	@echo "make gpu     all that needs an NVIDIA GPU, within minutes, on a machine that holds little but PyTorch: runs/gpu.txt"
	@echo "make gpu-wheels  what such a machine lacks and is small: build/gpu-wheels, to be taken along"
	@echo "make parity  exported files of every task and format beside the model's own answers, a line each"
	@echo "make fuzz    SIGKILL at 200 points of training and publishing; each restart must go on exactly"
	@echo "make fuzz-shards  SIGKILL at 200 points of building and merging shard sets; each must end in the same bytes"
	@echo "make faults  one failing call of the file system at 300 points; each is waited out or told, and nothing is lost"
	@echo "make failures  100 ranks of one run are killed or stopped; it must end in the weights of an undisturbed one"
	@echo "make mutants  the tests' own test: 200 drawn changes of the code, each of which a test must notice; MUTANTS, SEED, FILES"
	@echo "make clean   remove the environment, caches and demo runs"

demo: $(READY)
	$(BIN)/laconvnet launch configs/demo/stages.yaml --cluster local
	@run=$$(ls -td runs/demo/finetune-rec-* | head -n 1); \
	picture=$$(ls runs/demo/generate-*/raw/refer/images/mscoco/images/train2014/*.jpg | tail -n 1); \
	echo; echo "Try now:"; \
	echo "  open runs/demo/report.html in a browser"; \
	echo "  $(BIN)/laconvnet predict $$run --image $$picture --text 'the large shape on the left' --out answer.png"; \
	echo "  $(BIN)/laconvnet status runs/demo"; \
	echo "  make demo        # again: every stage is found done"

# The tests of SLURM start one of their own and want the machine for themselves.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "not variant" --ignore tests/slurm
	$(BIN)/python -m pytest tests/slurm

# What `make test` shows already, for one more type or data set each.
.PHONY: test-variants
test-variants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m variant

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/typed/laconvnet
	@ln -sfn $(addprefix ../../../,$(wildcard laconvnet/*.py) configs kernels launch pipeline shards) build/typed/laconvnet
	$(BIN)/mypy

# The pages that follow from the code are written again first. Nothing is fetched, neither here nor by a reader's browser.
docs: $(READY)
	$(BIN)/python docs/reference/generate.py
	$(BIN)/python docs/img/diagrams.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	@echo "build/docs/index.html; searching wants a server: $(BIN)/python -m http.server --directory build/docs"

# The largest difference of any output, by task and format; the table of docs/export.md.
.PHONY: parity
parity: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -k answers_as_the_model tests/pipeline/test_exported.py

# SIGKILL at so many points of training and publishing; SEED repeats what a failure names. A line a point.
.PHONY: fuzz
fuzz: $(READY)
	POINTS=$(or $(POINTS),200) SEED=$(or $(SEED),0) OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -s tests/pipeline/training/test_killed.py

# SIGKILL before so many calls of the file system while shard sets are built, built again and put together.
.PHONY: fuzz-shards
fuzz-shards: $(READY)
	POINTS=$(or $(POINTS),200) SEED=$(or $(SEED),0) OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -s tests/faults/test_killed.py

# One failing call of the file system (EIO, ESTALE, ENOSPC, EACCES, a short read) at so many points of every command.
.PHONY: faults
faults: $(READY)
	POINTS=$(or $(POINTS),300) SEED=$(or $(SEED),0) TABLE=$(TABLE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/faults/test_faults.py

# So many ranks of one run are lost, one after the other; SEED draws which, and when, ZERO is its ZeRO stage. A line each.
.PHONY: failures
failures: $(READY)
	FAILURES=$(or $(FAILURES),100) SEED=$(or $(SEED),0) ZERO=$(or $(ZERO),1) OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -s tests/failures

# One change of the code at a time, in a copy of the tree; a line each, results in build/mutants.jsonl. Broken off, it goes
# on with the same SEED. Hours for files whose tests start runs: FILES="data/plan shards/" takes those of some paths.
.PHONY: mutants
mutants: $(READY)
	@MUTANTS=$(or $(MUTANTS),200) SEED=$(or $(SEED),0) FILES="$(FILES)" ONLY="$(ONLY)" PASS="$(PASS)" \
	  nice -n 10 $(BIN)/python -m tests.mutants

# On a cluster the GPU machine often has its own Python with torch and no package index: it is used as it stands.
gpu:
	@PYTHON="$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON))" bash tests/gpu.sh

# For Python 3.12 on x86-64. DeepSpeed is on the index as source; its own kernels are neither built nor used.
GPU_WHEELS := hjson pydantic pydantic_core annotated-types typing-inspection jsonargparse docstring_parser \
  typeshed_client submitit pycocotools webdataset braceexpand simplejpeg ijson defusedxml rich markdown-it-py mdurl \
  psutil PyYAML tqdm safetensors xxhash typing_extensions einops msgpack ninja packaging py-cpuinfo cloudpickle
PLATFORMS := $(foreach glibc,2_28 2_27 2_17 2_12 2_5,--platform manylinux_$(glibc)_x86_64) \
  --platform manylinux2014_x86_64 --platform manylinux1_x86_64
.PHONY: gpu-wheels
gpu-wheels: $(READY)
	rm -rf build/gpu-wheels
	DS_BUILD_OPS=0 $(BIN)/pip wheel --quiet --no-deps --no-build-isolation -c constraints.txt -w build/gpu-wheels deepspeed
	$(BIN)/pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $(PLATFORMS) \
	  -c constraints.txt -d build/gpu-wheels $(GPU_WHEELS)
	@du -sh build/gpu-wheels

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e ".[dev,docs]"
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
