#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, the most valuable first, within minutes and on a machine that holds little but
# PyTorch: no package index, no install of this project. What is missing costs its own part only, and says so.
#
#   PYTHON          any interpreter with torch and pytest (default: python3)
#   OUT             the folder of what comes of it (default: runs), seven files at most:
#                   gpu.txt  what became of each part, and the numbers one looks for first; written after each part
#                   DATE-MACHINE.jsonl  every row as it is measured, as `laconvnet bench ... --record` keeps them: to be
#                   copied to docs/benchmarks/, read by `laconvnet bench show`
#                   gpu-machine.txt  the machine, the build, the first check; gpu-profile.txt  the dearest kernels of a
#                   step; gpu-ncu.csv  counters of our kernels; gpu-tests.txt  tests and sanitizer; gpu-log.txt  the rest
#   SECONDS_IN_ALL  or --seconds N: the time there is (default: 540). Cut short by a signal it tells what was done.
#   DRY             or --dry-run: the same on a processor with tiny shapes, without what only a GPU can do.
#
# DeepSpeed, jsonargparse, submitit, pycocotools and what they need come along as wheels: `make gpu-wheels` on a machine
# with an index fills build/gpu-wheels (for Python 3.12, x86-64); take that folder along. Those that the GPU machine has
# no package of its own for are put on the path, for the time of the run. DeepSpeed is on the index as source only; its
# wheel is made without its kernels (DS_BUILD_OPS=0), of which none is used here.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" -m tests.gpu_run "$@"
