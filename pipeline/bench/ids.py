"""What a row is called: the same name on every day and every machine, made of nothing but what the row says."""

from __future__ import annotations

import re
from typing import Any

# Of each command: the keys that tell its rows apart, in the order in which they are read, and what stands before a
# number that would not tell by itself what it counts.
_KEYS = {
    "kernel": "preset size dtype stage kernel_size operation direction name batch cache device",
    "data": "part name step pictures threads samples device",
    "shards": "measure name source pictures size workers",
    "train": "part name preset size precision batch zero steps device",
    "infer": "preset task size precision measure name batch device",
    "predict": "name step texts batch threads device",
    "bytes": "measure preset size dtype stage kernel_size operation direction place name batch world device",
    "scale": "part name measure world samples shards share window device",
}
_BEFORE = {"kernel_size": "k", "stage": "stage", **{key: key for key in ("batch", "zero", "world", "window", "share")}}
_AFTER = {key: f"-{key}" for key in ("pictures", "threads", "samples", "workers", "shards", "steps")}
_USUAL = {"cache": "warm", "step": "all"}  # left out of the name
_COMMANDS = {
    **dict.fromkeys(("loop", "checkpoint", "memory", "speed", "engine", "step", "graph"), "train"),
    **dict.fromkeys(("decode", "loader", "read", "seek", "first batch"), "data"),
}


def command_of(row: dict[str, Any]) -> str:
    """The command of `laconvnet bench` that wrote the row; one without `bench` is of `bench kernel`."""
    bench = str(row.get("bench", "kernel"))
    if bench in _KEYS:
        return bench
    return "scale" if "measure" in row else _COMMANDS.get(bench, bench)


def row_id(row: dict[str, Any]) -> str:
    """Such as kernel/s/224/fp32/stage2/k7/laconv/both/unfold/batch4/cpu2: two threads of a processor.

    Rows of one command differ in it, and rows of before have it as well, for it is made of what they hold. The machine
    is not in it, but whether a processor or a GPU computed is.
    """
    command = command_of(row)
    parts = [command]
    for key in _KEYS.get(command, "name").split():
        value = _device(row) if key == "device" else row.get("bench" if key == "part" else key)
        if value is not None and value != _USUAL.get(key):
            parts.append(f"{_BEFORE.get(key, '')}{slug(str(value))}{_AFTER.get(key, '')}")
    return "/".join(parts)


def slug(text: str) -> str:
    """Lower-case letters, digits, dots and underscores of a text; a hyphen for what stands between."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-")


def _device(row: dict[str, Any]) -> str | None:
    """A processor is named with its threads, as `kernels.bench.timing.device_name` does."""
    if row.get("device") is None:
        return None
    threads = re.search(r", (\d+) threads$", str(row["device"]))
    return f"cpu{threads[1]}" if threads else "cuda"
