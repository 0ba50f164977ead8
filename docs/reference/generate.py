"""Writes the pages that follow from the code: `python docs/reference/generate.py`; a test says when one is out of date.

docs/reference/cli.md           every command, from the parser of `laconvnet.launch.cli`
docs/reference/config.md        every key of a run, from the dataclasses of `laconvnet.pipeline.config`
docs/reference/run-folder.md    every file of a folder, from the table in `folders.py`
docs/stages-file.md             its table of a cluster file's keys, between two comments
"""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import folders
from docstring_parser import parse

from laconvnet.launch import cli
from laconvnet.launch.profile import OURS
from laconvnet.launch.slurm.cluster import Cluster
from laconvnet.pipeline import config
from laconvnet.pipeline.runs import resumable

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent
NOTE = "<!-- Written by docs/reference/generate.py: change the code or that file, not this page. -->\n"
BEGIN, END = "<!-- cluster keys: written by docs/reference/generate.py -->", "<!-- end of cluster keys -->"


def command_line() -> str:
    """The page of all commands, in the order of `laconvnet --help`."""
    parts = [NOTE, "# Command line\n"]
    parts.append(
        "Everything is one program, `laconvnet` (or `python -m laconvnet`). Most commands have `--json`, for programs. "
        "Exit codes: 0 done, 1 failed while working (of `shards check`: faults were found), 2 the user's mistake, 130 "
        "interrupted.\n"
    )
    leaves = list(_leaves(cli.parser()))
    parts.append("\n".join(f"* [`{_name(one)}`](#{_anchor(one)}): {_first(about)}" for one, about in leaves) + "\n")
    parts += [_command(one) for one, _ in leaves]
    return "\n".join(parts)


def _leaves(parser: argparse.ArgumentParser, about: str = "") -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Every command that has none below it, with its line of help."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser, about
    for action in below:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, child in action.choices.items():
            yield from _leaves(child, helps.get(name, ""))


def _name(parser: argparse.ArgumentParser) -> str:
    return " ".join(word for word in parser.prog.split() if re.fullmatch(r"[a-z][a-z0-9-]*", word))


def _anchor(parser: argparse.ArgumentParser) -> str:
    return _name(parser).replace(" ", "-")


def _first(text: str) -> str:
    return _cell(text).strip().rstrip(".")


def _command(parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    placed = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings and action.dest != "help"]
    needed = [f"{action.option_strings[-1]} {_metavar(action)}".strip() for action in options if action.required]
    usage = " ".join(
        [_name(parser), *map(_metavar, placed), *needed, "[OPTIONS]" if len(needed) < len(options) else ""]
    )
    parts = [f"## {_name(parser)}\n", _prose(parser.description or "")]
    parts.append(f"```text\n{usage.strip()}\n```\n")
    rows = [*((_metavar(one), one) for one in placed), *((_spelt(one), one) for one in options)]
    if rows:
        lines = [f"| `{name}` | {_meaning(action)} |" for name, action in rows]
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *lines]) + "\n")
    if parser.epilog:
        parts.append(_prose(parser.epilog))
    return "\n".join(parts)


def _prose(text: str) -> str:
    """A description as Markdown: lines that are indented are commands."""
    shown: list[str] = []
    for line in textwrap.dedent(text).replace("%%", "%").strip().splitlines():
        code = line.startswith("  ")
        if shown and shown[-1] and line and code != shown[-1].startswith("    "):
            shown.append("")
        shown.append(f"    {line[2:]}" if code else _escaped(line))
    return "\n".join(shown) + "\n"


def _spelt(action: argparse.Action) -> str:
    return f"{', '.join(action.option_strings)} {_metavar(action)}".strip()


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}"
        if action.choices
        else action.dest.upper()
        if action.option_strings
        else action.dest
    )
    word = name if isinstance(name, str) else " ".join(name)
    return {"?": f"[{word}]", "*": f"[{word} ...]", "+": f"{word} [...]"}.get(str(action.nargs), word)


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return _cell(text) + (" (required)" if action.required and action.option_strings else "")


def configuration() -> str:
    """The page of all keys of a run's configuration."""
    parts = [NOTE, "# Configuration\n"]
    parts.append(
        "A run's configuration is a YAML file of these keys (`--config`), over which `--key.sub VALUE` on the command "
        "line wins. `base: other.yaml` names a file that this one overrides. `laconvnet train --print-config` prints "
        "all of it, resolved; `laconvnet train --help-keys` prints this list.\n"
    )
    parts.append(
        "A ✓ in the last column marks a key that may differ at a resume: it does not shape what is learned. "
        "`elsewhere` marks one that may name the same thing by another path.\n"
    )
    hints = get_type_hints(config.TrainConfig)
    own = [one for one in fields(config.TrainConfig) if not is_dataclass(hints[one.name])]
    parts.append(_group("", config.TrainConfig, own))
    for group in fields(config.TrainConfig):
        if is_dataclass(kind := hints[group.name]):
            parts += _groups(group.name, kind)
    return "\n".join(parts)


def _groups(prefix: str, kind: Any) -> Iterator[str]:
    hints = get_type_hints(kind)
    yield _group(prefix, kind, [one for one in fields(kind) if not is_dataclass(hints[one.name])])
    for one in fields(kind):
        if is_dataclass(hints[one.name]):
            yield from _groups(f"{prefix}.{one.name}", hints[one.name])


def _group(prefix: str, kind: Any, keys: list[Field[Any]]) -> str:
    if not keys:
        return ""
    about = parse(inspect.getdoc(kind) or "")
    meaning = {one.arg_name: one.description or "" for one in about.params}
    hints = get_type_hints(kind)
    title = f"## {prefix}" if prefix else "## Top level"
    lines = ["| key | type | default | meaning | resume |", "|---|---|---|---|---|"]
    for key in keys:
        name = f"{prefix}.{key.name}".lstrip(".")
        free = "✓" if resumable.may_differ(name) else "elsewhere" if name in resumable.LOCATIONS else ""
        told = _cell(meaning.get(key.name, ""))
        lines.append(f"| `{name}` | {_cell(_kind(hints[key.name]))} | {_default(key)} | {told} | {free} |")
    summary = " ".join(part for part in (about.short_description, about.long_description) if part and prefix)
    return "\n".join([f"{title}\n", *([_escaped(" ".join(summary.split())) + "\n"] if summary else []), *lines, ""])


def _kind(hint: Any) -> str:
    """A type in words, as YAML has it."""
    parts, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(f"`{one}`" for one in parts)
    if type(None) in parts:
        return " or ".join([*(_kind(one) for one in parts if one is not type(None)), "none"])
    if origin is tuple:
        return f"list of {_kind(parts[0])}" if parts[-1] is ... else f"{len(parts)} of {_kind(parts[0])}"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(hint) or str(hint)


def _default(key: Field[Any]) -> str:
    if key.default is MISSING and not callable(key.default_factory):
        return "required"
    value = key.default_factory() if callable(key.default_factory) else key.default
    shown = {None: "none", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    return f"`{shown or _yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return "{}" if value == {} else repr(value) if value == "" else str(value)


def cluster_keys() -> str:
    """The table of a cluster file's keys, and of what its `sbatch` may not hold."""
    meaning = {one.arg_name: one.description or "" for one in parse(inspect.getdoc(Cluster) or "").params}
    hints = get_type_hints(Cluster)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in fields(Cluster):
        kind = "mapping" if key.name == "sbatch" else _kind(hints[key.name])
        default = _default(key).replace("`[]`", "empty").replace("`{}`", "empty")
        lines.append(f"| `{key.name}` | {_cell(kind)} | {default} | {_cell(meaning.get(key.name, ''))} |")
    ours = ", ".join(f"`{name}`" for name in OURS)
    return "\n".join([*lines, "", f"`sbatch` may not hold what laconvnet sets itself: {ours}."])


def stages_file(page: str) -> str:
    """The page on stages files with its table of a cluster file's keys as the code has them now."""
    before, _, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    assert ends, f"docs/stages-file.md: lacks the comments {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{cluster_keys()}\n\n{END}{after}"


def _escaped(text: str) -> str:
    """Text that Markdown must not take for markup: angle brackets outside of code."""
    return re.sub(r"<(?=[A-Za-z/])", "&lt;", text)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def pages() -> dict[Path, str]:
    """Every page, or part of one, that is written here: its file and what should stand in it."""
    stages = DOCS / "stages-file.md"
    return {
        HERE / "cli.md": command_line(),
        HERE / "config.md": configuration(),
        HERE / "run-folder.md": NOTE + "\n" + folders.page(),
        stages: stages_file(stages.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
