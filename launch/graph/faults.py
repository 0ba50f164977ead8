"""What is wrong with a YAML file: all of it at once, a line each with file, line, key, value and what was expected.

pydantic checks; the types it checks by say in words what they expect (`Field(description=...)`), and here that becomes
the message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.yaml_files import Document, KeyPath, clock
from laconvnet.terminal import one_line

T = TypeVar("T")
_KNOWN: dict[Any, tuple[dict[str, Any], TypeAdapter[Any]]] = {}


def plain_line(text: str) -> str:
    """The text, checked for what goes into a batch script: bash and sbatch read a line break as the end of a line.

    Raises ValueError for a line break or another control character; a tab is neither.
    """
    if one_line(text.replace("\t", " ")) != text.replace("\t", " "):
        raise ValueError(text)
    return text


def kind(value: Any) -> str:
    """How a wrong value is named in a message."""
    if value is None:
        return "nothing"
    called = "a mapping " if isinstance(value, dict) else "a list " if isinstance(value, list) else ""
    written = repr(value)
    return called + (written if len(written) <= 60 else f"{written[:57]}...")


class Faults:
    """The faults of one file, in the order of its lines."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[tuple[int, str]] = []

    def add(self, message: str, at: KeyPath = ()) -> None:
        """Note a fault of what stands at this path."""
        line = self._document.line(at)
        where = f"{self._document.file}: " + (f"line {line}: " if line else "")
        self._found.append((line or 0, one_line(where + message)))  # keys and names of files can hold line breaks

    def end(self) -> None:
        """Raises ConfigError where there are any."""
        if self._found:
            raise ConfigError("\n".join(message for _, message in sorted(self._found, key=lambda fault: fault[0])))

    def check(
        self,
        schema: type[T],
        raw: Any,
        at: KeyPath = (),
        name: str = "",
        required: Collection[str] = (),
        context: Any = None,
    ) -> T:
        """The keys of a mapping as a dataclass of such fields, all with defaults.

        What does not fit is noted, and has its default in what is returned. `name` stands before each message, `at` is
        the mapping's path in the file, `context` is what the schema's own checks ask for.
        """
        hints, adapter = _known(schema)
        if not isinstance(raw, dict):
            self.add(f"{name}got {kind(raw)}, expected a mapping with the keys {', '.join(hints)}", at)
            return schema()
        for key in required:
            if key not in raw:
                self.add(f"{name}key {key!r} is missing; expected {_expected(hints[key], inside=False)}", at)
        raw = {str(key): value for key, value in raw.items()}
        try:
            return adapter.validate_python(raw, context=context)
        except ValidationError as error:
            wrong = dict(_followed(raw, fault["loc"]) for fault in error.errors(include_url=False))
        for place, value in wrong.items():
            key = str(place[0])
            if key in hints:
                meant = clock(value) if isinstance(value, str) else None
                message = f"{_label(place)}: got {kind(value)}, expected {_expected(hints[key], inside=len(place) > 1)}"
                message += f"; {meant}" if meant else ""
            else:
                message = f"key {key!r} is unknown; expected one of {', '.join(hints)}"
            self.add(f"{name}{message}", (*at, *place))
        left = {place[0] for place in wrong}
        return adapter.validate_python({key: value for key, value in raw.items() if key not in left}, context=context)


def _known(schema: type[T]) -> tuple[dict[str, Any], TypeAdapter[T]]:
    """The type of each key, and what checks all of them; made once, for a graph has thousands of stages."""
    if schema not in _KNOWN:
        _KNOWN[schema] = get_type_hints(schema, include_extras=True), TypeAdapter(schema)
    return _KNOWN[schema]


def _followed(raw: dict[str, Any], path: Sequence[Any]) -> tuple[KeyPath, Any]:
    """How far a path of pydantic's, which ends in its own words for parts of a type, leads in a value, and where to."""
    value: Any = raw
    place: list[Any] = []
    for part in path:
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if not inside:
            break
        value = value[part]
        place.append(part)
    return tuple(place), value


def _label(place: KeyPath) -> str:
    return ": ".join(f"item {part + 1}" if isinstance(part, int) else part for part in place)


def _expected(hint: Any, inside: bool) -> str:
    """The description of a type, or of what is inside it."""
    found = list(_descriptions(hint))
    return found[-1 if inside else 0]


def _descriptions(hint: Any) -> Iterator[str]:
    """Those in a type, from the outside."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, FieldInfo) and part.description:
            yield part.description
    for inner in get_args(hint):
        yield from _descriptions(inner)
