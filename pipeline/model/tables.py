"""The papers' tables of configurations and costs, beside what this implementation counts.

The network is built from the papers' text, not tuned until a number fits: a row that is not met says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.cost import cost
from laconvnet.pipeline.model.model import ModelConfig, build_model
from laconvnet.pipeline.model.net import STRIDES

WORD_DIM = 300  # of a word vector
NEAR = 0.03  # relative difference that still counts as met: most figures are rounded to two digits
MEGA, GIGA = 10**6, 10**9
WHOLE = ("language", "visual", "head")


@dataclass(frozen=True)
class Row:
    """A row of a paper's table, and what is counted for it.

    Args:
        table: Number of the table in v2; `v1-4b` is Tab. 4b of v1.
        name: The row.
        config: The model that is counted.
        size: Side of the image, in pixels.
        params: Millions of parameters as printed; None where the table has none.
        macs: Thousand millions of multiply-adds as printed; None where the table has none.
        counts: What of the model is counted: beginnings of the names of its layers. Word vectors never are.
        against: A model whose cost is subtracted.
        layers: The cost is divided by this many layers.
        answers: Answers of a head that chooses one.
        recipe: The file under configs/ that trains this very network at this size; none does where there is no name.
        words: The printed parameters hold word vectors, of a vocabulary whose size the papers do not give.
        printed: The configuration as printed, for a table of configurations.
        why: The reason, where the row is not met.
    """

    table: str
    name: str
    config: ModelConfig
    size: int
    params: str | None = None
    macs: str | None = None
    counts: tuple[str, ...] = WHOLE
    against: ModelConfig | None = None
    layers: int = 1
    answers: int = 28
    recipe: str = ""
    words: bool = False
    printed: str = ""
    why: str = ""


S, B = ModelConfig(preset="s"), ModelConfig(preset="b")
S_POINTS, B_POINTS = (ModelConfig(preset=f"{size}_released", head="points") for size in "sb")
S_MASKS, B_MASKS = (ModelConfig(preset=f"{size}_released", task="res", head="masks") for size in "sb")
S_VQA, B_VQA = (ModelConfig(preset=size, task="vqa") for size in "sb")
S_RELEASED_VQA, B_RELEASED_VQA = (ModelConfig(preset=f"{size}_released", task="vqa") for size in "sb")
_FILM, _QGHC = ModelConfig(preset="s", block="film"), ModelConfig(preset="s", block="qghc")
_RESNET101 = ModelConfig(backbone="resnet101", task="vqa")
_S_RELEASED = "finetune/refcoco_s_released"
_BACKBONE = ("visual.backbone",)
_VISUAL_AND_NECK = ("visual", "head.neck")
_ONE_NECK = ("language", "visual", "head.neck", "head.pyramid")
_NECKS = "MACs: those of the model with one of its two necks are met"
_TEXT_MET = "MACs: those of the paper preset are met"
_BOXES = "MACs: those of the paper preset with a box in place of a mask are met"
_RELEASED_MET = "MACs: those of the released stack are met"
_FILTERS = "params: only filter projections change, and all of them have 0.94 M"
_GENERATORS = "params: the generators that go have 4.48 M, the projections from 512-d words add 0.81 M"
_OURS = "params: v2 does not describe its QGHC block; this one follows the QGHC paper"
_V1 = "MACs: 11 % above those of the network by v2's rule; what else v1 counts is not said"


def _configurations() -> Iterator[Row]:
    for name, config, depths in (("S", S, (2, 1, 2, 4, 1)), ("B", B, (3, 3, 4, 6, 3))):
        for stage, (side, packing, kernel, dim) in enumerate(
            ((112, 8, 3, 16), (56, 4, 7, 64), (28, 2, 7, 128), (14, 1, 7, 256), (7, 1, 7, 512))
        ):
            downsampling = "16-d linear, pool" if stage == 0 else "pool"
            printed = f"{downsampling}; {side}x{side}, s {packing}, {kernel}x{kernel}, {dim}-d x {depths[stage]}"
            part = (f"visual.stages.{stage}.",)
            yield Row("1", f"{name} stage {stage + 1}", config, 224, counts=part, printed=printed)


def _ablations() -> Iterator[Row]:
    """The rows of Tab. 10, less the full network."""
    for name, params, macs, recipe, change, why in (
        ("group = 1", "-2", "-0.9", "groups_1", {"groups": (1, 1, 1, 1, 1)}, _FILTERS),
        ("kernel = 3", "-2", "-0.8", "kernel_3", {"kernel_size": 3}, _FILTERS),
        ("no packing", "-2", "0.2", "no_packing", {"packing": (1, 1, 1, 1, 1)}, ""),
        ("language only", "-5", "-2.5", "words", {"generator": "words"}, _GENERATORS),
    ):
        config = replace(S, **change)
        recipe = f"ablation/{recipe}_refcoco"
        yield Row("10", f"{name}, less full", config, 416, params, macs, against=S, recipe=recipe, why=why)


def _of_v1() -> Iterator[Row]:
    for size, params, macs in (("10", "10.0", "1.86"), ("15", "15.9", "2.82"), ("19", "21.8", "3.70")):
        config, recipe = ModelConfig(preset=size, task="vqa"), f"v1/clevr_{size}"
        yield Row("v1-4b", f"LaConvNet-{size}", config, 224, params, macs, ("visual",), recipe=recipe, why=_V1)


ROWS: tuple[Row, ...] = (
    *_configurations(),
    Row("2", "S", S, 416, "24", "8.9", words=True, recipe="finetune/refcoco_s"),
    Row("2", "B", B, 416, "35", "14.5", words=True, recipe="finetune/refcoco_b"),
    Row("2", "S, released stack", S_POINTS, 416, "24", "8.9", words=True, recipe=_S_RELEASED, why=_TEXT_MET),
    Row("2", "B, released stack", B_POINTS, 416, "35", "14.5", words=True),
    Row("4", "S", S_MASKS, 416, "24", "9.6", words=True, recipe="finetune/refcoco_seg_s", why=_NECKS),
    Row("4", "B", B_MASKS, 416, "35", "15.7", words=True, recipe="finetune/refcoco_seg_b", why=_NECKS),
    Row("4", "S, one neck", S_MASKS, 416, None, "9.6", _ONE_NECK),
    Row("4", "B, one neck", B_MASKS, 416, None, "15.7", _ONE_NECK),
    Row("5", "S", S_MASKS, 320, "23", "5.3", words=True, recipe="finetune/clevr_ref_s", why=_BOXES),
    Row("5", "B", B_MASKS, 320, "35", "8.6", words=True, recipe="finetune/clevr_ref_b", why=_BOXES),
    Row("5", "S, a box", S, 320, "23", "5.3", words=True),
    Row("5", "B, a box", B, 320, "35", "8.6", words=True),
    Row("7", "S", S_VQA, 224, "19", "1.9", recipe="finetune/clevr_s", why=_RELEASED_MET),
    Row("7", "B", B_VQA, 224, "31", "3.7", recipe="finetune/clevr_b", why=_RELEASED_MET),
    Row("7", "S, released stack", S_RELEASED_VQA, 224, "19", "1.9"),
    Row("7", "B, released stack", B_RELEASED_VQA, 224, "31", "3.7"),
    Row("7", "S, released stack, no head", S_RELEASED_VQA, 224, None, "1.9", ("language", "visual")),
    Row("7", "B, released stack, no head", B_RELEASED_VQA, 224, None, "3.7", ("language", "visual")),
    Row("10", "full", S, 416, "24", "8.9", words=True, recipe="finetune/refcoco_s"),
    *_ablations(),
    Row("11", "LaConv", S, 416, "23.1", "8.9", words=True, recipe="finetune/refcoco_s"),
    Row("11", "FiLM", _FILM, 416, None, "9.8", recipe="ablation/film_refcoco"),
    Row("11", "FiLM, less LaConv", _FILM, 416, "7.3", "0.9", against=S, recipe="ablation/film_refcoco"),
    Row("11", "QGHC", _QGHC, 416, None, "6.8", recipe="ablation/qghc_refcoco"),
    Row("11", "QGHC, less LaConv", _QGHC, 416, "32.6", "-2.1", against=S, recipe="ablation/qghc_refcoco", why=_OURS),
    Row("12", "one layer", B_MASKS, 320, "1.4", "0.45", _VISUAL_AND_NECK, layers=19, recipe="finetune/clevr_ref_b"),
    Row("v1-4b", "ResNet34", ModelConfig(backbone="resnet34"), 224, "21.3", "3.68", _BACKBONE),
    Row("v1-4b", "ResNet101", _RESNET101, 224, "42.5", "7.85", _BACKBONE, recipe="ablation/resnet101_clevr"),
    *_of_v1(),
)
TABLES = tuple(dict.fromkeys(row.table for row in ROWS))


def select(tables: Iterable[str]) -> list[Row]:
    """The rows of these tables, in the papers' order; of all tables if none is named. Raises ConfigError."""
    wanted = set(tables) or set(TABLES)
    if unknown := wanted - set(TABLES):
        raise ConfigError(f"table {sorted(unknown)[0]!r}: expected one of {' '.join(TABLES)}")
    return [row for row in ROWS if row.table in wanted]


def compare(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Each row counted: `table, row, configuration, counted`, then `params` and `macs` as numbers, each beside
    `paper_...` (as printed), `..._off` (per cent of that) and `..._met`, None where nothing is printed, and a `note`.
    """
    known: dict[Any, dict[str, Any]] = {}

    def count(config: ModelConfig, row: Row) -> dict[str, int]:
        model = (config, row.size, row.answers)
        if model not in known:
            with torch.device("meta"):
                known[model] = cost(build_model(config, 1, row.answers), row.size)
        layers = [layer for layer in known[model]["layers"] if layer["layer"].startswith(row.counts)]
        layers = [layer for layer in layers if layer["layer"] != "language.embedding"]
        return {what: sum(layer[what] for layer in layers) for what in ("params", "macs")}

    for row in rows:
        ours = count(row.config, row)
        if row.against:
            base = count(row.against, row)
            ours = {what: ours[what] - base[what] for what in ours}
        ours = {what: round(value / row.layers) for what, value in ours.items()}
        yield {
            "table": row.table,
            "row": row.name,
            "configuration": _configuration(row),
            "counted": "whole" if row.counts == WHOLE else " + ".join(name.rstrip(".") for name in row.counts),
            **_beside("params", ours["params"], row.params, MEGA, row),
            **_beside("macs", ours["macs"], row.macs, GIGA, row),
            "note": _note(row, ours["params"]),
        }


def _beside(what: str, ours: int, printed: str | None, unit: int, row: Row) -> dict[str, Any]:
    if printed is None:
        return {what: ours, f"paper_{what}": None, f"{what}_off": None, f"{what}_met": None}
    paper = float(printed) * unit
    step = 10 ** -len(printed.partition(".")[2]) * unit
    # A difference of two rounded figures may be off by a whole step, a figure by half of one.
    near = max(NEAR * abs(paper), step if row.against else step / 2)
    met = ours < paper if what == "params" and row.words else abs(ours - paper) <= near
    off = 100 * (ours - paper) / abs(paper)
    return {what: ours, f"paper_{what}": round(paper), f"{what}_off": round(off, 2), f"{what}_met": met}


def _configuration(row: Row) -> str:
    config, plain = row.config, ModelConfig()
    changed = (
        f"{field.name} {value}"
        for field in fields(config)
        if field.name not in ("preset", "task", "head")
        and (value := getattr(config, field.name)) != getattr(plain, field.name)
    )
    return ", ".join([f"preset {config.preset}", f"head {config.head_name()}", *changed, f"{row.size} px"])


def built(row: Row) -> str:
    """The configuration that is built for a row of Tab. 1, in the words of `Row.printed`."""
    net, stage = row.config.net(), int(row.counts[0].split(".")[2])
    spelling = {"pool": "pool", "space_to_depth": "space to depth"}
    downsampling = f"{net.dims[0]}-d linear, " * (stage == 0) + spelling[net.downsample]
    (kernel,) = set(net.kernels[stage])
    side, dim, depth = row.size // STRIDES[stage], net.dims[stage], net.depths[stage]
    return f"{downsampling}; {side}x{side}, s {net.packing[stage]}, {kernel}x{kernel}, {dim}-d x {depth}"


def _note(row: Row, params: int) -> str:
    notes = [row.why] if row.why else []
    if row.printed:
        notes.append(f"as printed: {row.printed}" if built(row) == row.printed else f"printed: {row.printed}")
    elif row.recipe:
        notes.append(f"trained by configs/{row.recipe}.yaml")
    else:
        notes.append("no recipe trains it")
    if row.words and row.params:
        missing = (float(row.params) * MEGA - params) / WORD_DIM
        notes.append(f"{missing:,.0f} word vectors make up the difference in params")
    return "; ".join(notes)
