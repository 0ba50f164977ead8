"""The operator's measurement: layers x types x operations, a row a way and direction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace

import torch

from laconvnet.kernels import cuda
from laconvnet.kernels.bench.cases import Case
from laconvnet.kernels.bench.implementations import BASELINE, images, implementations
from laconvnet.kernels.bench.timing import Row, compare, median_ms

OPERATIONS = ("dynamic_conv", "laconv")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def roofs(device: torch.device, dtype: torch.dtype, quick: bool = False) -> dict[str, float]:
    """What the machine can do now: bytes a second of a copy (read and written), FLOP/s of a matrix product."""
    if device.type == "cuda":
        count, side = 2**27, 8192  # half a gigabyte: far more than its last cache
    else:
        count, side = (2**22, 512) if quick else (2**26, 1024)
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    copied = median_ms(lambda: target.copy_(source), device, 9)
    # Random: a GPU multiplies ones faster, at less power.
    matrix = torch.randn(side, side, device=device).to(dtype)
    multiplied = median_ms(lambda: matrix @ matrix, device, 9)
    return {
        "copy_bytes_per_s": 2 * source.numel() * source.itemsize / copied * 1e3,
        "product_flop_per_s": 2 * side**3 / multiplied * 1e3,
    }


def rows(
    cases: Sequence[Case],
    dtypes: Sequence[str],
    device: torch.device,
    rounds: int,
    compiled: bool,
    quick: bool = False,
    without: Collection[str] = (),
) -> Iterator[list[Row]]:
    """Yields the rows of one layer, type and operation at a time: len(cases) * len(dtypes) * 2 lists.

    A row is one of `compare` (its step renamed direction: forward, backward, both) with the layer's shape, operation,
    dtype, the images that this way took, the rate over the bytes that must move at least (gb_per_s; of_copy as a part
    of the copy's rate) and over the multiply-adds (gflop_per_s), and the roofs measured in the same run. ratio is of
    the times an image, for unfold may take fewer. What was not measured is None, and note says why. A GPU is measured
    with warm and with cold cache. float32 is float32 in all ways, without TF32. Ways ``without`` are left out.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # on by default for convolutions, and only for them
    try:
        for name in dtypes:
            dtype = DTYPES[name]
            found = roofs(device, dtype, quick)
            for case in cases:
                for operation in OPERATIONS:
                    yield [
                        _told(row, case, operation, name, found)
                        for row in _measured(case, operation, device, dtype, rounds, compiled, without)
                    ]
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def _measured(
    case: Case,
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    compiled: bool,
    without: Collection[str],
) -> list[Row]:
    made = implementations(case, operation, device, dtype, compiled)
    made = {name: steps for name, steps in made.items() if name not in without}
    measured = compare(made, BASELINE, device, rounds)
    if device.type == "cuda":
        measured += compare(made, BASELINE, device, rounds, cold=True)
        why = cuda.why_not(device)
        for row in measured:
            if why and row["name"] == "laconv" and row["note"] is None:
                row["note"] = f"plain PyTorch: {why}"
        del made
        torch.cuda.empty_cache()  # layers differ in size: what one leaves in pieces is of no use to the next
    return measured


def _told(row: Row, case: Case, operation: str, dtype: str, found: dict[str, float]) -> Row:
    direction, taken = row.pop("step"), images(row["name"], case)
    share = taken / images(BASELINE, case)
    if taken < case.batch and row["note"] is None:
        row["note"] = f"{taken} of {case.batch} images: no room for more"
    done = replace(case, batch=taken)
    moved, flop = done.bytes(operation, direction, DTYPES[dtype]), 2 * done.macs(operation, direction)
    seconds = None if row["median"] is None else row["median"] / 1e3
    shape = asdict(case) | {"preset": case.label, "pictures": taken}
    del shape["label"], shape["unfold_batch"]
    return {
        **row,
        "ratio": None if row["ratio"] is None else row["ratio"] * share,
        "operation": operation,
        "direction": direction,
        "dtype": dtype,
        **shape,
        "gb_per_s": seconds and moved / seconds / 1e9,
        "of_copy": seconds and moved / seconds / found["copy_bytes_per_s"],
        "gflop_per_s": seconds and flop / seconds / 1e9,
        "flop_per_byte": flop / moved,
        **found,
    }
