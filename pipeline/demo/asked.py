"""A trained model that is asked one question at a time, while others wait for their turn."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain.explanation import Explanation
from laconvnet.pipeline.inference.answer import Answer
from laconvnet.pipeline.inference.predictor import load

_GREY = 127


@dataclass(frozen=True)
class Asked:
    """What a model answered to a text about an image of this name, and in how many seconds.

    ``explanation`` is None of a model that weighs no words by place.
    """

    picture: str
    answer: Answer
    explanation: Explanation | None
    seconds: float


class AskedModel:
    """The model of a run, a checkpoint or an exported file.

    It is asked once before the first question, because the first pass of a network takes longer than others; that also
    tells whether it can be explained: ``unexplained`` says why not. Raises ConfigError as `load`.
    """

    def __init__(self, place: Path, last: bool = False) -> None:
        self.place, self.model = place, load(place, last=last, batch=1)
        self.unexplained = self._why_unexplained()
        self._thread = ThreadPoolExecutor(1, f"model {place}")
        self._turn = asyncio.Lock()
        self._newest: Asked | None = None

    async def ask(self, request: Request, picture: str, image: Image.Image, text: str) -> Asked:
        """The answer for a client, in its turn; who has gone away while it waited is not answered any more.

        A page that is typed on gives up what it asked before, so the newest text waits for one pass at most. The newest
        answer is kept: asking the same again takes no pass, and no time. Raises ConfigError for a text without a word.
        """
        async with self._turn:
            known = self._newest
            if known and (known.picture, known.answer.text) == (picture, text):
                return replace(known, seconds=0.0)
            if await request.is_disconnected():
                raise HTTPException(409, "given up by the client")
            computing = asyncio.get_running_loop().run_in_executor(self._thread, self._ask, picture, image, text)
            self._newest = await computing
            return self._newest

    def _ask(self, picture: str, image: Image.Image, text: str) -> Asked:
        begun = time.perf_counter()
        if self.unexplained:
            answer, explanation = self.model(image, text), None
        else:
            explanation = self.model.explain(image, text)
            answer = explanation.answer
        return Asked(picture, answer, explanation, time.perf_counter() - begun)

    def _why_unexplained(self) -> str:
        image, text = Image.new("RGB", (64, 64), (_GREY,) * 3), self.model.vocabulary.words[0]
        try:
            self.model.explain(image, text)
        except ConfigError as error:
            self.model(image, text)
            return str(error)
        return ""
