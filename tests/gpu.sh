#!/usr/bin/env bash
# Every test that needs an NVIDIA GPU, then the bench of the operator, in one run under ten minutes: each part ends after
# its own time at the latest. What it printed goes to runs/gpu.txt as well, the bench's rows to runs/gpu-bench.jsonl.
# PYTHON is the interpreter to use: any one with torch, pytest and this project's dependencies on its path.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
TESTS_SECONDS=340 BENCH_SECONDS=180 BENCH_MINUTES=2.5
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
  TQDM_MININTERVAL=20 within "$BENCH_SECONDS" \
    "$PYTHON" -m launch.cli bench kernel --device cuda --quick --minutes "$BENCH_MINUTES" --json >runs/gpu-bench.jsonl
  bench=$?
  echo
  within 20 "$PYTHON" -m launch.cli bench show runs/gpu-bench.jsonl
  table=$?
  echo
  verdict "tests" "$tests" "$TESTS_SECONDS"
  verdict "bench" "$bench" "$BENCH_SECONDS"
  verdict "table of the bench" "$table" 20
  ((tests == 0 && bench == 0 && table == 0))
} 2>&1 | tee runs/gpu.txt
