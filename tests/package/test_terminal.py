"""What is printed: nothing in it that a terminal obeys, whoever wrote the text."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laconvnet import terminal
from laconvnet.launch import table
from laconvnet.launch.cli import main
from laconvnet.launch.commands import output
from laconvnet.launch.local.screen import Screen
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import one_line, printable, say

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\rd\u202ee\u2066f\u2028g\ud800h\x00i\x7fj"
# What a terminal or a reader would be misled by, one of each kind.
OBEYED = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066", "\u2028", "\ud800", "\x00", "\x7f")
# These print by themselves: the module itself, what rich has drawn from escaped cells, and a protocol of our own.
PRINTERS = {"laconvnet/terminal.py", "launch/table.py", "launch/doctor/neighbour.py"}


def harmless(text: str) -> bool:
    return not [control for control in OBEYED if control in text]


def test_every_control_is_written_out_and_every_letter_stays() -> None:
    shown = printable(HOSTILE)
    assert harmless(shown)
    assert [letter for letter in "abcdefghij" if letter not in shown] == []
    assert ("\\x1b" in shown, "\\u202e" in shown, "\\ud800" in shown) == (True, True, True)
    assert printable("Zoë, 狗\t1\n2 ± é") == "Zoë, 狗\t1\n2 ± é"
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_a_stream_that_lacks_a_letter_gets_it_written_out() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("Zoë", stream)
    stream.seek(0)
    assert stream.read() == "Zo\\xeb\n"


def test_tables_lines_and_progress_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.show({f"key{HOSTILE}": HOSTILE, "several": [HOSTILE], "inside": {HOSTILE: HOSTILE}}, False)
    output.rows([{f"head{HOSTILE}": f"{HOSTILE}\nnext"}], False)
    screen = Screen(sys.stderr)
    screen.line(HOSTILE)
    screen.table([{"stage": HOSTILE}], {"stage": HOSTILE})
    screen._last = float("-inf")
    screen.progress(lambda: {"stage": HOSTILE})
    shown = capsys.readouterr()
    assert harmless(shown.out)
    assert harmless(shown.err)
    assert "\\nnext" in shown.out
    assert (shown.out.count("\\x1b"), shown.err.count("\\x1b")) == (7, 4)


def test_the_live_line_is_escaped() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    screen = Screen(stream)
    screen._console = table.console(stream)
    screen._console.width = 400
    screen._last = float("-inf")
    screen.progress(lambda: {"stage": f"seen {HOSTILE}"})
    screen.close()
    assert "seen a\\x1b]52" in stream.getvalue()
    assert "\x1b]52" not in stream.getvalue()


def test_no_line_of_a_message_is_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain(f"a.json: key 'x' is {'y' * 10**7}, expected z\nb.json: short")
    first, second = capsys.readouterr().err.splitlines()
    assert len(first) < 11_000
    assert (first.startswith("a.json: key"), first.endswith("y, expected z"), second) == (True, True, "b.json: short")


def test_json_is_ascii_and_gives_the_text_back(capsys: pytest.CaptureFixture[str]) -> None:
    output.show({"text": HOSTILE}, True)
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert json.loads(shown) == {"text": HOSTILE}


def test_the_message_of_a_command_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError(f"x.yaml: {HOSTILE}")

    monkeypatch.setattr("laconvnet.launch.status.show", refuse)
    assert main(["status", str(tmp_path)]) == 2
    assert main(["status", str(tmp_path), "\x1b[2J"]) == 2
    shown = capsys.readouterr().err
    assert harmless(shown)
    assert "\\x1b]52" in shown


@pytest.mark.parametrize(
    "statement", ["raise RuntimeError(TEXT)", "warnings.warn(TEXT)", "logging.getLogger('x').warning('%s', TEXT)"]
)
def test_what_python_prints_by_itself_is_escaped(statement: str) -> None:
    program = (
        f"import logging, warnings\nfrom laconvnet import terminal\nterminal.install()\nTEXT = {HOSTILE!a}\n{statement}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    shown = done.stderr.decode()
    assert harmless(shown)
    assert "a\\x1b]52" in shown


def test_the_command_installs_it() -> None:
    program = (
        "import sys\nfrom laconvnet import terminal\nfrom laconvnet.launch import cli\n"
        "cli.main = lambda: int(sys.excepthook is not terminal._tell_exception)\ncli.entry()"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_nothing_prints_past_it() -> None:
    rooms = ("laconvnet", "launch", "pipeline", "shards", "kernels", "configs")
    found = set()
    for file in (file for room in rooms for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "sys.stdout.write", "sys.stderr.write"):
                found.add(file.relative_to(ROOT).as_posix())
    assert "laconvnet/terminal.py" in found
    assert found - PRINTERS == set()
    assert terminal.say is say
