#!/usr/bin/env bash
# Every test that needs an NVIDIA GPU, then the benches of training and of the operator, in one run under ten minutes:
# each part ends after its own time at the latest. What it printed goes to runs/gpu.txt as well, rows to
# runs/gpu-train.jsonl and runs/gpu-bench.jsonl.
# PYTHON is the interpreter to use: any one with torch, pytest and this project's dependencies on its path.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
TESTS_SECONDS=310 TRAIN_SECONDS=110 TRAIN_MINUTES=1 BENCH_SECONDS=110 BENCH_MINUTES=1.4
if ! "$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  echo "make gpu: $PYTHON sees no GPU through torch; nothing was run" >&2
  exit 1
fi
mkdir -p runs

# Interrupted, a part still tells how far it came.
within() { timeout --signal=INT --kill-after=10 "$@"; }

verdict() {
  case $2 in
    0) echo "$1: passed" ;;
    124 | 137) echo "$1: FAILED, stopped after $3 s" ;;
    *) echo "$1: FAILED, exit code $2" ;;
  esac
}

{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  "$PYTHON" -c 'import torch; print("torch", torch.__version__, "cuda", torch.version.cuda)'
  within "$TESTS_SECONDS" "$PYTHON" -m pytest -m gpu tests/gpu -p no:cacheprovider --durations=20
  tests=$?
  # A progress bar in a file: a line now and then.
  export TQDM_MININTERVAL=20
  within "$TRAIN_SECONDS" "$PYTHON" -m laconvnet.launch.cli bench train --device cuda --quick --minutes "$TRAIN_MINUTES" \
    --part speed loop checkpoint memory --json >runs/gpu-train.jsonl
  train=$?
  within "$BENCH_SECONDS" \
    "$PYTHON" -m laconvnet.launch.cli bench kernel --device cuda --quick --minutes "$BENCH_MINUTES" --json >runs/gpu-bench.jsonl
  bench=$?
  echo
  within 10 "$PYTHON" -m laconvnet.launch.cli bench show runs/gpu-train.jsonl && \
    within 10 "$PYTHON" -m laconvnet.launch.cli bench show runs/gpu-bench.jsonl
  tables=$?
  echo
  verdict "tests" "$tests" "$TESTS_SECONDS"
  verdict "bench of training" "$train" "$TRAIN_SECONDS"
  verdict "bench of the operator" "$bench" "$BENCH_SECONDS"
  verdict "tables of the benches" "$tables" 10
  ((tests == 0 && train == 0 && bench == 0 && tables == 0))
} 2>&1 | tee runs/gpu.txt
