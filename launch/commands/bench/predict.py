"""`laconvnet bench predict`."""

from __future__ import annotations

from typing import Annotated

from laconvnet.launch.commandline import Arg, BuiltSet, JsonLines, Run
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.options import Record


def predict(
    run: Run,
    *,
    data: BuiltSet,
    split: Annotated[str, Arg("split to answer, such as val or testA", "S")],
    threads: Annotated[int, Arg("threads that read images", "N", at_least=1)] = 2,
    rounds: Annotated[int, Arg("times each way runs", "N", at_least=1)] = 5,
    json: JsonLines = False,
    record: Record = None,
) -> int:
    """Rate of predict over a list, beside eval.

    Time `predict` over a list of image files, scaled by Pillow and by DALI, beside `eval` of the same examples (the
    baseline), in turn. A row tells the median over rounds in ms a split, the distance of the quartiles, the ratio
    (baseline's median / median) and texts a second.

    For example:
      laconvnet bench predict runs/first --data shards/refcoco --split val
    """
    from laconvnet.pipeline.bench import asked

    with Measured(json, record) as measured:
        measured.add(asked.rows(run, data, split, threads, rounds))
    return measured.failed()
