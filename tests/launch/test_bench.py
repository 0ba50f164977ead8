"""`laconvnet bench`: what is measured and what a row says; never how fast."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from laconvnet.kernels import bench, chunks, cuda
from laconvnet.kernels.backend import PLAIN
from laconvnet.kernels.bench import Case, compare
from laconvnet.kernels.bench.implementations import WAYS as ALL_WAYS
from laconvnet.kernels.bench.implementations import implementations
from laconvnet.kernels.bench.run import OPERATIONS
from laconvnet.kernels.cuda import involution
from laconvnet.kernels.plain import matmul
from laconvnet.launch import cli
from laconvnet.pipeline.model import PRESETS

WAYS = {"unfold", "taps", "laconv"}  # on a CPU
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_a_quick_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "roofline.png"
    arguments = ["bench", "kernel", "--device", "cpu", "--preset", "tiny", "--size", "32", "--quick", "--json"]
    assert cli.main([*arguments, "--rounds", "2", "--batch", "1", "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out
    rows = [json.loads(line) for line in lines.splitlines()]

    def key(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    net = PRESETS["tiny"]
    wanted = {
        (operation, stage, direction, way)
        for operation in ("dynamic_conv", "laconv")
        for stage in range(1, 6)
        for direction in ("forward", "backward", "both")
        for way in WAYS
    }
    assert {key(row, "operation", "stage", "direction", "name") for row in rows} == wanted
    assert len(rows) == len(wanted)
    middle = {key(row, "operation", "stage", "direction", "name"): row["median"] for row in rows}
    for row in rows:
        baseline = middle[(*key(row, "operation", "stage", "direction"), "unfold")]
        assert row["baseline"] == "unfold"
        assert row["ratio"] == pytest.approx(baseline / row["median"])
        assert row["name"] != "unfold" or row["ratio"] == 1
        assert (row["unit"], row["dtype"], row["cache"]) == ("ms", "fp32", "warm")
        assert row["device"].endswith("threads")
        assert row["median"] > 0
        assert row["spread"] >= 0
        place = row["stage"] - 1
        assert row["channels"] == net.dims[place]
        assert row["kernel_size"] == net.kernels[place][0]
        assert key(row, "preset", "size", "side", "batch") == ("tiny", 32, 16 >> place, 1)
        assert key(row, "pictures", "note") == (1, None)
        assert row["of_copy"] == pytest.approx(row["gb_per_s"] * 1e9 / row["copy_bytes_per_s"])
    assert plot.read_bytes().startswith(b"\x89PNG")

    kept, again = tmp_path / "rows.jsonl", tmp_path / "again.png"
    kept.write_text(lines)
    assert cli.main(["bench", "show", str(kept), "--plot", str(again)]) == 0
    output = capsys.readouterr().out.splitlines()
    title = ("dynamic_conv", "tiny@32 stage 1", "1x8x16x16", "k 3", "g 2", "fp32", "warm")
    assert any(all(part in line for part in title) for line in output)
    assert output[-1].split()[:6] == ["laconv", "tiny", "32", "fp32", "warm", "laconv"]
    assert again.read_bytes() == plot.read_bytes()


@pytest.mark.parametrize("line", ["{", "[]", '{"name": "laconv"}'])
def test_a_file_of_something_else(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{line}\n")
    assert cli.main(["bench", "show", str(file)]) == 2
    assert f"{file}: line 1: expected a row of `laconvnet bench" in capsys.readouterr().err
    assert cli.main(["bench", "show", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_minutes_end_between_layers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench.rows

    def slowly(*arguments: Any) -> Any:
        for number, found in enumerate(rows(*arguments)):
            now = time.monotonic() + 60 * number
            monkeypatch.setattr(time, "monotonic", lambda now=now: now)
            yield found

    monkeypatch.setattr(bench, "rows", slowly)
    arguments = ["bench", "kernel", "--device", "cpu", "--preset", "tiny", "--size", "32", "--quick", "--json"]
    assert cli.main([*arguments, "--rounds", "1", "--minutes", "1.5"]) == 0
    output = capsys.readouterr()
    assert "laconvnet: 7 of 10 layers were not begun within 1.5 minutes" in output.err
    assert len(output.out.splitlines()) == 3 * len(WAYS) * 3


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "kernel", "--device", "cpu", "--preset", "tiny", "--size", "32", "--quick"]
    assert cli.main([*arguments, "--rounds", "1", "--batch", "1", "--dtype", "bf16"]) == 0
    output = capsys.readouterr()
    title = ("laconv", "tiny@32 stage 5", "1x128x1x1", "k 7", "g 8", "bf16", "warm")
    assert any(all(part in line for part in title) for line in output.out.splitlines())
    assert "least ratio" in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "--preset: 'huge': expected some of tiny, 10"),
        (["--size", "100"], "--size: expected a multiple of 32, got 100"),
        (["--rounds", "0"], "--rounds: 0: expected at least 1"),
        (["--size", "64", "-32"], "--size: -32: expected at least 1"),
        (["--minutes", "nan"], "--minutes: nan: expected more than 0"),
        (["--plot", "nowhere/x.png"], "--plot: nowhere: no such folder"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "kernel", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "kernel", "--device", "cuda", "--quick", "--json"]) == 2
    output = capsys.readouterr()
    assert output.err == "laconvnet: command line: --device: 'cuda': PyTorch finds no GPU here; expected cpu\n"
    assert not output.out


def test_a_layer_of_two_networks_is_measured_once() -> None:
    from laconvnet.launch.commands.bench.kernel import _sized
    from laconvnet.launch.commands.bench.layers import layers_of

    layers = layers_of(["s", "b", "b_released"], [], [416])
    cases = [_sized(layer, None, torch.float32, None, False) for layer in layers]
    # The released network's first stage has kernels of 3, 5 and 7.
    assert [(case.stage, case.kernel_size) for case in cases] == [
        (1, 3),
        (2, 7),
        (3, 7),
        (4, 7),
        (5, 7),
        (1, 5),
        (1, 7),
    ]
    assert [case.label for case in cases] == ["s,b,b_released"] * 5 + ["b_released"] * 2
    assert all(case.batch == 1 or case.batch * case.unfold_bytes(torch.float32) <= 320 * 2**20 for case in cases)


def test_every_round_runs_every_candidate_and_steps_hand_on() -> None:
    ran: list[str] = []

    def step(name: str) -> Any:
        def run(before: str | None) -> str:
            ran.append(name)
            return (before or "") + name

        return run

    seen: list[Any] = []
    candidates = {"a": {"one": step("a1"), "two": lambda before: seen.append(before)}, "b": {"one": step("b1")}}
    rows = compare(candidates, "a", CPU, rounds=3)
    assert ran == ["a1", "b1"] * 4  # the first time to warm up
    assert seen == ["a1"] * 4
    assert [(row["name"], row["step"]) for row in rows] == [("a", "one"), ("a", "two"), ("a", "both"), ("b", "one")]


def test_a_way_that_fails_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore")

    monkeypatch.setattr("laconvnet.kernels.bench.implementations.unfold_conv", refused)
    arguments = ["bench", "kernel", "--device", "cpu", "--preset", "tiny", "--size", "32", "--quick", "--rounds", "1"]
    assert cli.main(arguments) == 1
    output = capsys.readouterr()
    assert "laconvnet: 30 rows failed" in output.err.splitlines()[-1]  # laconv's unfold calls it as well
    assert "failed: CUBLAS_STATUS_NOT_SUPPORTED" in output.out


def test_what_has_no_memory_is_told() -> None:
    def full(_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    def step(_: Any) -> None:
        time.sleep(1e-4)

    candidates = {"a": {"one": step, "two": step}, "b": {"one": step, "two": full}}
    rows = {(row["name"], row["step"]): row for row in compare(candidates, "a", CPU, rounds=2)}
    assert len(rows) == 6
    for step_name in ("one", "two", "both"):
        row = rows["b", step_name]
        assert [row[name] for name in ("median", "ratio", "spread", "peak_mb")] == [None] * 4
        assert row["note"] == "out of memory"
        assert rows["a", step_name]["ratio"] == 1
        assert rows["a", step_name]["note"] is None
    candidates["b"]["two"] = lambda _: torch.ones(2).reshape(3)
    assert {row["note"] for row in compare(candidates, "a", CPU, rounds=1) if row["name"] == "b"} == {
        "failed: shape '[3]' is invalid for input of size 2"
    }
    without = {row["name"]: row for row in compare(candidates, "b", CPU, rounds=2)}
    assert without["a"]["median"] > 0
    assert without["a"]["ratio"] is None


CASE = Case("x", 32, 1, batch=3, unfold_batch=3, channels=8, condition=5, side=6, kernel_size=3, groups=2)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_all_implementations_compute_the_same(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(involution, "ready", lambda device: PLAIN)
    made = implementations(CASE, operation, CPU, torch.float32, False)
    assert list(made) == ["unfold", "taps", "involution", "laconv"]
    found = {}
    for name, steps in made.items():
        out = steps["forward"](None)
        found[name] = [out, *steps["backward"](out)]
    for name in ("taps", "involution", "laconv"):
        for ours, theirs in zip(found[name], found["unfold"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_unfold_takes_fewer_pictures_where_it_has_no_room() -> None:
    case = replace(CASE, unfold_batch=2)
    assert implementations(case, "laconv", CPU, torch.float32, False)["unfold"]["forward"](None).shape == (2, 8, 6, 6)
    for found in bench.rows([case], ["fp32"], CPU, 1, False, True):
        rows = {row["name"]: row for row in found if row["direction"] == "both"}
        assert {name: row["pictures"] for name, row in rows.items()} == {"unfold": 2, "taps": 3, "laconv": 3}
        assert {row["batch"] for row in rows.values()} == {3}
        assert rows["unfold"]["note"] == "2 of 3 images: no room for more"
        assert rows["unfold"]["ratio"] == 1
        an_image = {name: row["median"] / row["pictures"] for name, row in rows.items()}
        for name, row in rows.items():
            assert row["ratio"] == pytest.approx(an_image["unfold"] / an_image[name])
            moved = replace(case, batch=row["pictures"]).bytes(row["operation"], "both", torch.float32)
            assert row["gb_per_s"] == pytest.approx(moved / row["median"] / 1e6)


class OnMeta(TorchFunctionMode):
    """What is made on a GPU has no numbers and is nowhere."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            assert torch.device(kwargs["device"]).type in ("cuda", "meta")
            kwargs["device"] = torch.device("meta")
            kwargs.pop("generator", None)
        return function(*args, **kwargs)


class Generator(torch.Generator):
    def __new__(cls, device: torch.device) -> Generator:
        assert device.type == "cuda"
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


class Event:
    """Of a pretended GPU, whose clock goes on by a millisecond from mark to mark."""

    now = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.now += 1
        self.at = Event.now

    def elapsed_time(self, end: Event) -> float:
        return float(end.at - self.at)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tensors without numbers on a device that is not there; the cycles slept."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    slept: list[int] = []
    answers: dict[str, Any] = {
        "is_available": True,
        "mem_get_info": (140 * 2**30, 141 * 2**30),
        "get_device_name": "Pretended",
        "memory_allocated": 0,
        "max_memory_allocated": 5_000_000,
        "device": contextlib.nullcontext(),
        **dict.fromkeys(("synchronize", "reset_peak_memory_stats", "empty_cache")),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "Generator", Generator)
    # Fewer calls: all images at once, by matrix products.
    monkeypatch.setattr(chunks, "WORKSPACE", 2**40)
    monkeypatch.setattr(matmul, "CHUNK", 2**50)
    monkeypatch.setattr(matmul, "fits", lambda *_: True)
    monkeypatch.setattr(cuda, "ready", lambda device: None)
    monkeypatch.setattr(cuda, "why_not", lambda device: "it is pretended")
    return slept


def test_a_gpu_by_default(pretended_gpu: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    """Every layer of S and B at both sizes and in both types; everything is made on the GPU and bounded there."""
    tf32 = torch.backends.cudnn.allow_tf32
    with OnMeta():
        assert cli.main(["bench", "kernel", "--quick", "--json", "--rounds", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    layers = {(row["size"], row["stage"], row["side"]) for row in rows}
    assert layers == {(size, stage, size >> stage) for size in (224, 416) for stage in range(1, 6)}
    assert len(rows) == len(layers) * len(("fp32", "bf16")) * len(OPERATIONS) * len(("warm", "cold")) * len(WAYS) * 3
    for row in rows:
        assert (row["preset"], row["device"], row["batch"]) == ("s,b", "Pretended", 64)
        assert row["median"] == (2 if row["direction"] == "both" else 1)
        assert row["peak_mb"] == 5
        if row["name"] == "laconv":
            assert row["note"] == "plain PyTorch: it is pretended"
    fewer = {(row["name"], row["size"], row["stage"], row["pictures"]) for row in rows if row["pictures"] < 64}
    assert fewer == {("unfold", 416, 2, 31), ("unfold", 416, 3, 63)}  # 4 GiB of 128 * 49 * 104^2 and 52^2 numbers
    # A millisecond at least to fill the queue, and never more than a tenth of a second.
    assert min(pretended_gpu) >= 2e6
    assert max(pretended_gpu) <= 2e8
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_stages_and_ways_that_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "kernel", "--device", "cpu", "--preset", "tiny", "--size", "32", "--quick", "--json"]
    few = ["--rounds", "1", "--batch", "1", "--stage", "2", "4"]
    assert cli.main([*arguments, *few, "--without", "unfold", "taps"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["stage"] for row in rows} == {2, 4}
    assert {(row["name"], row["baseline"], row["ratio"]) for row in rows} == {("laconv", "unfold", None)}
    assert all(row["median"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "1", "9"], ["--stage: 1, 9", "1, 2, 3, 4, 5"]),
        (["--without", "unfolded"], ["--without: unfolded", ", ".join(ALL_WAYS)]),
        (["--without", *ALL_WAYS], ["--without", "not all"]),
        (["--quick", "--without", "unfold", "taps", "laconv"], ["--without", "cpu"]),
    ],
)
def test_stages_and_ways_that_there_are_not(
    words: list[str], message: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "kernel", "--device", "cpu", "--preset", "tiny", *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(part in line for part in message)


def test_least_work() -> None:
    case = Case("x", 32, 1, batch=2, unfold_batch=1, channels=4, condition=3, side=5, kernel_size=3, groups=2)
    assert case.macs("dynamic_conv", "forward") == 2 * 25 * 4 * 9
    assert case.macs("laconv", "both") == 3 * 2 * 25 * (4 * 9 + 18 * 3)
    assert case.bytes("dynamic_conv", "forward", torch.float16) == 2 * 2 * 25 * (4 + 4 + 18)
    assert case.bytes("laconv", "forward", torch.float32) == 4 * (2 * 25 * (4 + 4 + 3) + 18 * 4)
    assert case.unfold_bytes(torch.float32) == 4 * 25 * 4 * 9
