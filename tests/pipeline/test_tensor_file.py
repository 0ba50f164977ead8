"""Weights from others are data: a pickle that wants to run code is called so, by the name it asks for."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.launch.cli import main
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.backbones.weights import load_weights
from laconvnet.pipeline.tensor_file import load_tensors
from tests.messages import tells

pytestmark = pytest.mark.filterwarnings("error")  # torch's would be a second line
RAN = Path("ran")  # what an attack would leave where the test runs


class Attack:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any] = os.system, *arguments: Any) -> None:
        self.call = (function, arguments or (f"touch {RAN}",))

    def __reduce__(self) -> Any:
        return self.call


def by_hand(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps({"w": Attack()}, 4))
        archive.writestr("weights/version", "3")


ATTACKS: dict[str, Callable[[Path], object]] = {
    "torch.save": lambda file: torch.save({"state_dict": Attack()}, file),
    "beside tensors": lambda file: torch.save({"a": torch.ones(2), "b": Attack()}, file),
    "old torch.save": lambda file: torch.save(Attack(), file, _use_new_zipfile_serialization=False),
    "made by hand": by_hand,
    "INST": lambda file: file.write_bytes(b"\x80\x02(S'touch ran'\niposix\nsystem\n."),
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("protocol", range(6))
def test_so_is_a_bare_pickle_of_any_protocol(file: Path, protocol: int) -> None:
    file.write_bytes(pickle.dumps(Attack(), protocol))
    with pytest.raises(ConfigError, match=r"pickle that asks for posix\.system"):
        load_tensors(file)
    assert not RAN.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_named_and_does_not_run(file: Path, attack: str) -> None:
    ATTACKS[attack](file)
    with pytest.raises(ConfigError) as caught:
        load_tensors(file)
    assert tells(str(caught.value), str(file), "pickle", "posix.system", "may run code", "nothing of it has run", "ask")
    assert "\n" not in str(caught.value)
    assert not RAN.exists()


def test_the_attack_is_one(file: Path) -> None:
    pickle.loads(pickle.dumps(Attack()))  # noqa: S301 - or the tests above would show nothing
    assert RAN.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (Attack(eval, "1"), "eval"),
        (Attack(getattr, "a", "b"), "getattr"),
    ],
)
def test_so_is_an_object_of_any_other_class(file: Path, value: object, name: str) -> None:
    torch.save({"weight": torch.zeros(1), "args": value}, file)
    with pytest.raises(ConfigError, match=rf"^{file}: is a pickle that asks for \S*{name}; "):
        load_tensors(file)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<!DOCTYPE html><html>too many downloads", b"\x80\x02]" + b"\x85" * 10**6 + b"."]
)
def test_what_is_no_file_of_tensors_is_not_called_an_attack(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{file}: not a whole file of torch\.save; get"):
        load_tensors(file)


def test_a_name_that_a_terminal_obeys_is_written_out(file: Path) -> None:
    file.write_bytes(b"\x80\x02c\x1b]0;x\x07\nsystem\n.")
    with pytest.raises(ConfigError) as caught:
        load_tensors(file)
    assert "\x1b" not in str(caught.value)


def test_tensors_are_read(file: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, file)
    assert load_tensors(file)["epoch"] == 3


def test_the_backbone_names_its_key(file: Path) -> None:
    ATTACKS["torch.save"](file)
    with pytest.raises(ConfigError, match=rf"^model\.backbone_weights: {file}: .*posix\.system"):
        load_weights(None, file)  # type: ignore[arg-type]


def test_the_command_ends_with_one_line_and_code_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ATTACKS["torch.save"](file)
    Path("words.json").write_text('["PAD", "UNK", "CLS", "a"]')
    code = main(["import-released", str(file), "--vocabulary", "words.json", "--out", "run"])
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, "posix.system" in line, RAN.exists(), Path("run").exists()) == (2, True, False, False)
