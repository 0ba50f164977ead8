#!/usr/bin/env bash
# Every test that needs an NVIDIA GPU, in one run under ten minutes; what it printed goes to runs/gpu.txt as well.
# PYTHON is the interpreter to use: any one with torch, pytest and this project's dependencies on its path.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  echo "make gpu: $PYTHON sees no GPU through torch; nothing was run" >&2
  exit 1
fi
mkdir -p runs
{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  "$PYTHON" -c 'import torch; print("torch", torch.__version__, "cuda", torch.version.cuda)'
  timeout 570 "$PYTHON" -m pytest -m gpu -p no:cacheprovider --durations=20
} 2>&1 | tee runs/gpu.txt
