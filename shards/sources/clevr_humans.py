"""CLEVR-Humans (Johnson et al. 2017, "Inferring and Executing Programs"): people's questions on images of CLEVR.

The root holds ``CLEVR-Humans-<split>.json``, as the download unpacks; the images are those of CLEVR_v1.0, whose
``images`` is named with ``--images``. The questions have no programs, hence no families, and no sure number of their
own: a question's id is ``<split>-<position in the file>``, counted from 0. Otherwise as `shards.sources.clevr`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.sources.clevr import Clevr


@dataclass(frozen=True, slots=True)
class ClevrHumans(Clevr):
    """Questions that people typed, in the layout of CLEVR's."""

    @property
    def files(self) -> tuple[str, ...]:
        return (
            f"{self.question_files}: questions and answers",
            "images/<split>/*.png: the images of CLEVR (or CLEVR_v1.0/images, which holds <split>/, as --images)",
        )

    def question_number(self, question: dict[str, Any], position: int, path: Path) -> int:
        return position


CLEVR_HUMANS = ClevrHumans(
    "clevr_humans",
    "CLEVR-Humans: 32,164 questions that people asked on images of CLEVR",
    "CLEVR-Humans-<split>.json",
    "questions: terms unknown; pictures: CLEVR, CC BY 4.0",
)
