"""What the papers print for a score: the number that a full run of their recipe is held against.

v1 and v2 are the papers of `docs/paper-tables.md`. Numbers are per cent, as printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from laconvnet.pipeline.report.gather import Evaluation


@dataclass(frozen=True)
class Printed:
    """A printed result, a share of 1, and the table that has it."""

    value: float
    table: str


_Subject = tuple[str, str, str, str, str]  # task, source, split, metric, size

# The partition of RefCOCOg that has a split named test, which the papers report; the others have one each.
_OTHER_PARTITION = "google"
_SIZES = {"s": "S", "s_released": "S", "b": "B", "b_released": "B", "10": "10", "15": "15", "19": "19"}


def printed(evaluation: Evaluation, metric: str) -> Printed | None:
    """What is printed for a metric of a result, for this size of the network on this split.

    None where nothing is, and where the split is not that of the paper: of a generated set, or another partition.
    """
    if evaluation.generated or evaluation.blank or evaluation.partition == _OTHER_PARTITION:
        return None
    size = _SIZES.get(evaluation.preset or "")
    return _PRINTED.get((evaluation.task, evaluation.source or "", evaluation.split, metric, size or ""))


def _row(
    table: str, task: str, metric: str, size: str, source: str, **of_splits: float
) -> Iterator[tuple[_Subject, Printed]]:
    for split, value in of_splits.items():
        yield (task, source, split, metric, size), Printed(value / 100, table)


def _families(table: str, size: str, *values: float) -> Iterator[tuple[_Subject, Printed]]:
    names = ("", "/count", "/compare_number", "/exist", "/query_attribute", "/compare_attribute")
    for name, value in zip(names, values, strict=True):
        yield from _row(table, "vqa", f"accuracy{name}", size, "clevr", val=value)  # the split is not named


def _rows() -> Iterator[tuple[_Subject, Printed]]:
    rec, res = ("rec", "acc@0.5"), ("res", "miou")
    yield from _row("v2 Tab. 2", *rec, "S", "refcoco", val=80.26, testA=83.51, testB=75.82)
    yield from _row("v2 Tab. 2", *rec, "B", "refcoco", val=82.46, testA=84.66, testB=78.16)
    yield from _row("v2 Tab. 2", *rec, "S", "refcoco+", val=69.82, testA=73.61, testB=60.98)
    yield from _row("v2 Tab. 2", *rec, "B", "refcoco+", val=72.31, testA=76.57, testB=63.76)
    yield from _row("v2 Tab. 2", *rec, "S", "refcocog", val=74.45, test=74.54)
    yield from _row("v2 Tab. 2", *rec, "B", "refcocog", val=76.37, test=76.75)
    yield from _row("v2 Tab. 3", *rec, "S", "referit", test=72.02)
    yield from _row("v2 Tab. 3", *rec, "B", "referit", test=74.28)
    yield from _row("v2 Tab. 3", *rec, "S", "flickr30k", test=77.87)
    yield from _row("v2 Tab. 3", *rec, "B", "flickr30k", test=79.95)
    yield from _row("v2 Tab. 4", *res, "S", "refcoco", val=69.74, testA=72.21, testB=67.29)
    yield from _row("v2 Tab. 4", *res, "B", "refcoco", val=70.59, testA=72.93, testB=67.74)
    yield from _row("v2 Tab. 4", *res, "S", "refcoco+", val=57.16, testA=60.11, testB=47.72)
    yield from _row("v2 Tab. 4", *res, "B", "refcoco+", val=60.43, testA=64.47, testB=52.02)
    yield from _row("v2 Tab. 4", *res, "S", "refcocog", val=60.89, test=60.48)
    yield from _row("v2 Tab. 4", *res, "B", "refcocog", val=61.73, test=62.41)
    yield from _row("v2 Tab. 5", *res, "S", "clevr_ref+", val=79.8)
    yield from _row("v2 Tab. 5", *res, "B", "clevr_ref+", val=82.3)
    for metric, small, large in (
        ("ciou", 57.06, 57.14),
        ("giou", 62.83, 62.52),
        ("n_acc", 59.16, 58.06),
        ("t_acc", 99.65, 99.74),
    ):
        yield from _row("v2 Tab. 6", "grec", metric, "S", "grefcoco", val=small)
        yield from _row("v2 Tab. 6", "grec", metric, "B", "grefcoco", val=large)
    yield from _families("v2 Tab. 7", "S", 98.3, 96.4, 97.5, 99.2, 99.3, 98.3)
    yield from _families("v2 Tab. 7", "B", 99.1, 97.9, 99.4, 99.5, 99.6, 99.3)
    yield from _row("v2 Tab. 8", "entailment", "accuracy", "S", "snli_ve", test=71.77)
    yield from _row("v2 Tab. 8", "entailment", "accuracy", "B", "snli_ve", test=74.21)
    yield from _families("v1 Tab. 2", "10", 98.3, 96.4, 97.5, 99.2, 99.3, 98.3)
    yield from _families("v1 Tab. 2", "15", 98.7, 97.4, 96.4, 99.4, 99.5, 99.1)
    yield from _families("v1 Tab. 2", "19", 99.1, 97.9, 99.4, 99.5, 99.6, 99.3)
    yield from _row("v1 Tab. 3", *rec, "10", "refcoco", val=60.6, testA=65.1, testB=52.5)
    yield from _row("v1 Tab. 3", *rec, "15", "refcoco", val=60.9, testA=65.2, testB=53.6)
    yield from _row("v1 Tab. 3", *rec, "19", "refcoco", val=62.5, testA=67.9, testB=55.9)
    yield from _row("v1 Tab. 3", *rec, "10", "refcoco+", val=49.1, testA=55.1, testB=39.2)
    yield from _row("v1 Tab. 3", *rec, "15", "refcoco+", val=49.2, testA=55.3, testB=39.5)
    yield from _row("v1 Tab. 3", *rec, "19", "refcoco+", val=49.4, testA=55.7, testB=40.5)


_PRINTED = dict(_rows())
