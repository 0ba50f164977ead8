"""How a command of `laconvnet` is declared: one typed function, whose signature and docstring are all there is to say.

    def verify(folder: BuiltSet, *, full: Annotated[bool, Arg("every checksum")] = False, json: Json = False) -> None:
        \"""Check a shard set.

        Check sizes, indices and references; with --full every byte and image.

        What stands in further paragraphs follows the options in the help.
        \"""

Parameters before the `*` are positional arguments, those after it options. What has no default is required; a bool is a
flag, a Literal a choice, a Sequence takes several values. A parameter without an `Arg` is handed over as `cli.main` has
it: `keys` are the words that no option of ours has taken (keys of a configuration), `line` is the whole parser.
The function returns the exit code, None for 0.

argparse does the work: no library that reads signatures keeps what the command does. `--inputs A B` is an error to
typer and to jsonargparse (`[A,B]`), both add to the start of every command, and typer tells of one mistake at a time.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.remote import url_of

Command = Callable[..., int | None]


@dataclass(frozen=True)
class Arg:
    """What the help says of an argument, and how it is written.

    Args:
        help: Its meaning; the default is added to it where it is one that can be typed.
        metavar: What stands for its value in the help.
        flag: The option, where it is not the parameter's name.
        append: Whether the option is given again for each further value, in place of several values behind one.
        group: Of options that share one, only one may be given.
        const: What the option means without a value behind it.
        url: Whether a path may be a URL as well.
        at_least: A number below it is a mistake, as one that is not above ``above``.
    """

    help: str
    metavar: str | None = None
    flag: str | None = None
    append: bool = False
    group: str | None = None
    const: Path | None = None
    url: bool = False
    at_least: float | None = None
    above: float | None = None


Run = Annotated[Path, Arg("folder of a run", "RUN")]
BuiltSet = Annotated[Path, Arg("a built shard set, or its URL", "DIR", url=True)]
Last = Annotated[bool, Arg("take the last checkpoint, not the best that validation has found")]
Json = Annotated[bool, Arg("print one JSON object")]
JsonLines = Annotated[bool, Arg("print one JSON object a line")]


class Help(argparse.HelpFormatter):
    """Fills paragraphs, and keeps lines that are indented (examples, lists) as they were written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[list[str]] = []
        for line in text.strip().splitlines():
            if parts and line.strip() and not line.startswith(" ") and parts[-1][-1][:1].strip():
                parts[-1].append(line)
            else:
                parts.append([line])
        filled = [textwrap.fill(" ".join(part), width) if part[0][:1].strip() else part[0].rstrip() for part in parts]
        return "\n".join(filled)


def group(commands: Any, name: str, help: str, about: str, *functions: Command, epilog: str = "") -> None:
    """A command that is a group of these commands."""
    parser = commands.add_parser(name, help=help, description=about)
    add(parser.add_subparsers(required=True, metavar="COMMAND"), *functions, epilog=epilog)


def add(commands: Any, *functions: Command, epilog: str = "") -> None:
    """A command for each function; `epilog` ends the help of all, {prog} in it is how the command is typed."""
    for function in functions:
        short, _, rest = (inspect.getdoc(function) or "").partition("\n\n")
        description, _, after = rest.partition("\n\n")
        parser = commands.add_parser(
            function.__name__.rstrip("_").replace("_", "-"),
            help=f"{short[0].lower()}{short[1:].rstrip('.')}",
            description=description,
            formatter_class=Help,
        )
        parser.epilog = "\n\n".join(filter(None, (after, epilog.format(prog=parser.prog))))
        exclusive: dict[str, Any] = {}
        for parameter, kind, arg in _declared(function):
            place = parser
            if arg.group is not None:
                place = exclusive.setdefault(arg.group, None) or parser.add_mutually_exclusive_group()
                exclusive[arg.group] = place
            _add_argument(place, parameter, kind, arg)
        takes_keys = "keys" in inspect.signature(function).parameters
        parser.set_defaults(command=functools.partial(_call, function), takes_keys=takes_keys)


def _declared(function: Command) -> Iterator[tuple[inspect.Parameter, Any, Arg]]:
    """The parameters that have an `Arg`, each with its type and that."""
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, *extras = get_args(hints[parameter.name]) or (None,)
        for arg in extras:
            if isinstance(arg, Arg):
                yield parameter, kind, arg


def _add_argument(place: Any, parameter: inspect.Parameter, kind: Any, arg: Arg) -> None:
    """One argument as argparse wants it."""
    required = parameter.default is inspect.Parameter.empty
    default = None if required else parameter.default
    options: dict[str, Any] = {"help": arg.help, "default": default}
    if get_origin(kind) in (Union, types.UnionType):  # X | None
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    several = get_origin(kind) is Sequence
    if several:
        (kind,) = get_args(kind)
    positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    if kind is bool:
        options["action"] = "store_true"
    else:
        options["metavar"] = arg.metavar
        options |= {"choices": get_args(kind)} if get_origin(kind) is Literal else {"type": kind}
    if arg.append:
        options |= {"action": "append", "default": list(default or ())}
    elif several:
        options["nargs"] = "+" if required or not positional else "*"
    elif positional and not required:
        options["nargs"] = "?"
    elif arg.const is not None:
        options |= {"nargs": "?", "const": arg.const}
    if kind in (int, float, str, Path) and not several and default is not None and "(default" not in arg.help:
        options["help"] = f"{arg.help} (default: {default})"
    if positional:
        place.add_argument(parameter.name, **options)
    else:
        place.add_argument(_flag(parameter, arg), dest=parameter.name, required=required, **options)


def _flag(parameter: inspect.Parameter, arg: Arg) -> str:
    return arg.flag or "--" + parameter.name.rstrip("_").replace("_", "-")


def _call(function: Command, arguments: argparse.Namespace) -> int | None:
    """Call the function of a command with what was typed.

    Raises ConfigError for a number that is too small, and for a URL where there is to be a path.
    """
    given = {name: getattr(arguments, name) for name in inspect.signature(function).parameters}
    for parameter, _, arg in _declared(function):
        if arg.at_least is not None or arg.above is not None:
            _check_bounds(_flag(parameter, arg), given[parameter.name], arg)
        _check_place(_flag(parameter, arg), given[parameter.name], arg)
    return function(**given)


def _check_place(flag: str, value: Any, arg: Arg) -> None:
    """A URL would be taken for a folder of that name, to be read from or made where the command was typed."""
    for place in value if isinstance(value, Sequence) else [value]:
        if not isinstance(place, Path):
            continue
        if str(place).startswith("file:/"):
            raise ConfigError(f"command line: {flag}: {place}: expected a path, without file://")
        if not arg.url and url_of(place):
            told = "expected a path on this machine; a set at a URL comes here by `laconvnet shards copy`"
            raise ConfigError(f"command line: {flag}: {url_of(place)}: {told}")


def _check_bounds(flag: str, value: Any, arg: Arg) -> None:
    for number in value if isinstance(value, Sequence) else [value]:
        if number is None:
            continue
        if arg.at_least is not None and not number >= arg.at_least:  # NaN is not
            raise ConfigError(f"command line: {flag}: {number:g}: expected at least {arg.at_least:g}")
        if arg.above is not None and not number > arg.above:
            raise ConfigError(f"command line: {flag}: {number:g}: expected more than {arg.above:g}")
