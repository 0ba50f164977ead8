"""How much of what was annotated a score is of: a set may have lost pictures and entries when it was built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laconvnet.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from laconvnet.pipeline.data.examples import Examples

AT_LEAST = 0.99  # below it a score is none of the data set's


@dataclass(frozen=True)
class Completeness:
    """Of so many annotated expressions or questions so many are scored; None where the set does not say what it lost.

    ``lost`` counts the others by cause, as the set's ledger names them; texts without a word are never examples.
    """

    scored: int
    annotated: int | None
    lost: dict[str, int]

    @classmethod
    def of(cls, examples: Examples) -> Completeness:
        lost = examples.manifest.losses(examples.split, examples.kind)
        scored, wordless = len(examples.rows), len(examples.empty_rows)
        if lost is None:
            return cls(scored, None, {})
        if wordless:
            lost = {**lost, "without a word": wordless}
        return cls(scored, scored + sum(lost.values()), lost)

    def check(self, data: Path, examples: Examples, at_least: float) -> None:
        """Raises ConfigError where less than this share of what was annotated is there."""
        if self.annotated is None or self.scored >= at_least * self.annotated:
            return
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(self.lost.items()))
        there = f"{self.scored} of {self.annotated} annotated {examples.kind}s are there (lost: {causes})"
        share = math.floor(100 * self.scored / self.annotated) / 100
        raise ConfigError(
            f"{data}: split {examples.split!r}: {there}, expected {at_least:.4g} of them: mend what was lost and build "
            f"again (`laconvnet shards info {data}` names it); or score what is there with --at-least {share:g}"
        )
