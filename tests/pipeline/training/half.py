"""The command line on a machine whose CPU DeepSpeed believes to be capable of fp16, as GPUs are."""

from __future__ import annotations

import sys

from deepspeed.accelerator import get_accelerator

from laconvnet.launch import cli

get_accelerator().is_fp16_supported = lambda: True
sys.exit(cli.main(sys.argv[1:]))
