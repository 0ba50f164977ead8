"""The requests of the page, and what they are answered with. Whatever is wrong is one line: {"error": ...}."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from laconvnet import page
from laconvnet.images import ImageLimitError
from laconvnet.pipeline.demo.asked import Asked, AskedModel
from laconvnet.pipeline.demo.described import answered, weighed, words_from
from laconvnet.pipeline.demo.examples import ExamplePictures
from laconvnet.pipeline.demo.pictures import MAX_BYTES, Pictures, encoded
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.errors import InputError

MAX_TEXT = 500  # characters
_AT_ONCE = 10  # example images
_MAX_JSON = 16 << 10  # bytes; a text may be written in escapes of six
_HERE = Path(__file__).parent
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


class Question(BaseModel):
    """A text about an image, to the model of this number."""

    model_config = ConfigDict(extra="forbid", strict=True)
    run: Annotated[int, Field(ge=0)]
    picture: str
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class WordQuestion(Question):
    """And one of its words, counted from 0."""

    word: Annotated[int, Field(ge=0)]


_Body = TypeVar("_Body", bound=BaseModel)


class Demo:
    """The page on these models and images. ``note`` says why there are no example images."""

    def __init__(self, models: Sequence[AskedModel], pictures: Pictures, note: str = "") -> None:
        self._models, self._pictures, self._note = list(models), pictures, note
        self._thread = ThreadPoolExecutor(1, "pictures")  # decodes one image at a time, whatever is uploaded

    @cached_property
    def app(self) -> Starlette:
        """The application, without `guard.Guard` around it."""
        routes = [
            Route("/", _file("index.html", "text/html")),
            Route("/demo.js", _file("demo.js", "text/javascript")),
            Route("/demo.css", _style),
            Route("/about", self.about),
            Route("/examples", self.examples),
            Route("/pictures", self.add_picture, methods=["POST"]),
            Route("/pictures/{name}", self.picture),
            Route("/answer", self.answer, methods=["POST"]),
            Route("/maps", self.maps, methods=["POST"]),
            Route("/vocabulary", self.vocabulary),
        ]
        handlers: Mapping[Any, Any] = {
            HTTPException: lambda _, error: _error(error.status_code, error.detail),
            ConfigError: lambda _, error: _error(422, str(error)),
            InputError: lambda _, error: _error(500, str(error)),
            Exception: lambda _, error: _error(500, f"{type(error).__name__}: see the server's messages"),
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    async def about(self, _: Request) -> Response:
        """What the page needs to know before the first question."""
        examples = self._pictures.examples
        return JSONResponse(
            {
                "runs": [_described(model) for model in self._models],
                "examples": examples and _offer(examples),
                "note": self._note,
                "bytes": MAX_BYTES,
                "characters": MAX_TEXT,
            }
        )

    async def examples(self, request: Request) -> Response:
        """Some example images from a number on, each with texts about it."""
        examples, first = self._pictures.examples, request.query_params.get("first", "0")
        if examples is None or not first.isascii() or not first.isdigit() or int(first[:9]) >= len(examples):
            raise HTTPException(404, f"examples: {first!r}: no example image of this number")
        numbers = range(int(first), min(int(first) + _AT_ONCE, len(examples)))
        texts = await self._off_loop(lambda: [examples.texts(number) for number in numbers])
        found = [{"picture": f"example-{number}", "texts": some} for number, some in zip(numbers, texts, strict=True)]
        return JSONResponse(found)

    async def add_picture(self, request: Request) -> Response:
        """An uploaded image: its file is the body."""
        data = await _body(request, MAX_BYTES)
        try:
            name = await self._off_loop(self._pictures.add, data)
        except ConfigError as error:
            raise HTTPException(413 if isinstance(error.__cause__, ImageLimitError) else 415, str(error)) from error
        return JSONResponse({"picture": name}, 201)

    async def picture(self, request: Request) -> Response:
        """An image as the models see it."""
        image = await self._image(request.path_params["name"])
        data, kind = await self._off_loop(encoded, image)
        return Response(data, media_type=kind)

    async def answer(self, request: Request) -> Response:
        """The answer to a `Question`."""
        model, asked = await self._asked(request, await _parsed(request, Question))
        return JSONResponse(await self._off_loop(answered, model, asked))

    async def maps(self, request: Request) -> Response:
        """Where the word of a `WordQuestion` weighs how much."""
        question = await _parsed(request, WordQuestion)
        model, asked = await self._asked(request, question)
        if asked.explanation is None:
            raise HTTPException(422, model.unexplained)
        return JSONResponse(await self._off_loop(weighed, asked.explanation, question.word))

    async def vocabulary(self, request: Request) -> Response:
        """Words that begin so."""
        begin = request.query_params.get("begin", "")
        if len(begin) > MAX_TEXT:
            raise HTTPException(422, f"begin: {len(begin)} characters; expected at most {MAX_TEXT}")
        return JSONResponse(words_from(self._models, begin))

    async def _asked(self, request: Request, question: Question) -> tuple[AskedModel, Asked]:
        if question.run >= len(self._models):
            raise HTTPException(404, f"run: {question.run}: there are {len(self._models)}, counted from 0")
        model, image = self._models[question.run], await self._image(question.picture)
        return model, await model.ask(request, question.picture, image, question.text)

    async def _image(self, name: str) -> Any:
        try:
            return await self._off_loop(self._pictures.get, name)
        except KeyError as error:
            raise HTTPException(
                404, f"picture: {name[:80]!r}: not here, or not kept any longer; choose again"
            ) from error

    async def _off_loop(
        self, function: Callable[_Given, _Found], *given: _Given.args, **named: _Given.kwargs
    ) -> _Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*given, **named))


def _described(model: AskedModel) -> dict[str, Any]:
    asked = model.model
    return {
        "name": model.place.resolve().name,
        "place": str(model.place),
        "task": asked.task,
        "step": asked.step,
        "origin": asked.origin,
        "words": asked.config.data.words,
        "unexplained": model.unexplained,
    }


def _offer(examples: ExamplePictures) -> dict[str, Any]:
    return {"set": examples.name, "split": examples.split, "number": len(examples), "at_once": _AT_ONCE}


async def _body(request: Request, most: int) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most:
            raise HTTPException(413, f"more than {most:,} bytes")
    return bytes(found)


async def _parsed(request: Request, kind: type[_Body]) -> _Body:
    data = await _body(request, _MAX_JSON)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise HTTPException(400 if first["type"] == "json_invalid" else 422, f"{place}: {first['msg']}") from error


def _error(status: int, line: str) -> Response:
    return JSONResponse({"error": line}, status)


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    def answer(_: Request) -> Response:
        return Response((_HERE / name).read_bytes(), media_type=kind)

    return answer


def _style(_: Request) -> Response:
    shared = Path(page.__file__).with_name("page.css")
    return Response(shared.read_text("utf-8") + (_HERE / "demo.css").read_text("utf-8"), media_type="text/css")
