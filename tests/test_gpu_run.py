"""The run on a GPU: each part has its time and no more, a cut keeps what was done; and a dry run of it all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from laconvnet import kernels
from laconvnet.launch import cli
from tests.gpu_run import carried, counters, launches, parts, small, smoke
from tests.gpu_run.runner import FAILED, LOG, NOT_RUN, PASSED, Command, Outcome, Part, Runner
from tests.gpu_run.summary import headlines, rows, table
from tests.without import without

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "facts",
    "build",
    "smoke",
    "operator",
    "step",
    "ncu",
    "tests",
    "engine",
    "memcheck",
    "racecheck",
    "more",
    "graph",
]
# What a GPU machine may lack: all that PyTorch, numpy and pytest do not bring along.
GONE = (
    *("deepspeed", "nvidia", "webdataset", "jsonargparse", "submitit", "pycocotools", "simplejpeg", "ijson", "rich"),
    *("defusedxml", "pydantic", "matplotlib", "psutil", "tqdm", "yaml", "safetensors", "PIL", "pyarrow", "xxhash"),
    *("accelerate", "transformers", "tensorboard", "huggingface_hub", "hypothesis"),
)
# The run with parts that only pretend.
PRETENDED = """
import sys
from tests.gpu_run import parts
from tests.gpu_run.__main__ import main
from tests.gpu_run.runner import Command, Part
def part(name, script, limit=60):
    return Part(name, limit, 1, (Command(("sh", "-c", script), name + ".txt"),))
row = '{"date": "9", "bench": "step", "name": "made", "median": null}'
parts.dry = lambda folder: [
    part("whole", f"echo '{row}' > {folder}/rows.jsonl; echo all of it"),
    part("slow", f"printf half >> {folder}/rows.jsonl; echo $$ > {folder}/pid; sleep 60"),
    part("never", "echo never"),
]
sys.exit(main(["--dry-run", *sys.argv[1:]]))
"""


def sh(script: str, file: str = LOG) -> Command:
    return Command(("sh", "-c", script), file)


def ran(folder: Path, seconds: float, *made: Part) -> tuple[int, dict[str, Outcome]]:
    runner = Runner(folder, seconds, dict(os.environ), lambda outcomes: None)
    code = runner.run(made)
    return code, {outcome.name: outcome for outcome in runner.outcomes}


def is_alive(pid: int) -> bool:
    """Whether it still is after a while: what is killed takes a moment to go."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_part_that_fails_or_lacks_something_keeps_nothing_from_the_others(tmp_path: Path) -> None:
    code, found = ran(
        tmp_path,
        60,
        Part("first", 9, 1, (sh("echo one; echo aside >&2", "one.txt"),)),
        Part("broken", 9, 1, (sh("echo half; echo why >&2; exit 3", "one.txt"), sh("echo goes on", "one.txt"))),
        Part("absent", 9, 1, (Command(("no-such-program",)),)),
        Part("lacking", 9, 1, (), "ncu is not installed"),
        Part("last", 9, 1, (sh("echo end", "two.txt"),)),
    )
    assert code == 0
    states = {name: (one.state, one.why) for name, one in found.items()}
    assert states == {
        "first": (PASSED, ""),
        "broken": (FAILED, "exit code 3"),
        "absent": (FAILED, "exit code 127"),
        "lacking": (NOT_RUN, "ncu is not installed"),
        "last": (PASSED, ""),
    }
    assert (found["first"].said, found["broken"].said) == ("one", "goes on")
    assert "no-such-program" in found["absent"].said
    lines = (tmp_path / "one.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("== ")] == ["one", "half", "goes on"]
    assert [line for line in (tmp_path / LOG).read_text().splitlines() if not line.startswith("== ")] == [
        "aside",
        "why",
    ]


def test_a_part_that_takes_too_long_is_cut_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"trap '' INT; sleep 60 & echo $! > {tmp_path}/child; echo begun; wait; wait"
    begun = time.monotonic()
    code, found = ran(
        tmp_path,
        60,
        Part(
            "slow",
            1,
            1,
            (sh(script), sh("echo not this one")),
        ),
        Part("next", 9, 1, (sh("echo here"),)),
    )
    assert code == 0
    assert (found["slow"].state, found["slow"].why, found["slow"].said) == (FAILED, "stopped after 1 s", "begun")
    assert found["next"].state == PASSED
    assert time.monotonic() - begun < 20
    assert not is_alive(int((tmp_path / "child").read_text()))
    assert "not this one" not in (tmp_path / LOG).read_text()


def test_what_was_asked_to_end_may_tell_how_far_it_came(tmp_path: Path) -> None:
    script = "trap 'echo came far; exit 1' INT; while :; do sleep 0.1; done"
    _, found = ran(tmp_path, 60, Part("slow", 1, 1, (sh(script),)))
    assert found["slow"].said == "came far"


def test_what_a_part_leaves_behind_goes_with_it(tmp_path: Path) -> None:
    _, found = ran(tmp_path, 60, Part("one", 9, 1, (sh(f"sleep 60 & echo $! > {tmp_path}/child"),)))
    assert found["one"].state == PASSED
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_parts_for_which_there_is_no_time_are_not_begun(tmp_path: Path) -> None:
    quick = (sh("echo {minutes}", "told.txt"),)
    _, found = ran(tmp_path, 12, Part("large", 99, 30, quick), Part("small", 99, 2, quick))
    assert found["large"].state == NOT_RUN
    assert "it needs 30" in found["large"].why
    assert found["small"].state == PASSED
    # Not its own limit, but what is left of all, less what ending takes.
    assert 0.05 < float((tmp_path / "told.txt").read_text().split()[-1]) <= 0.8 * 8 / 60 + 0.001


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_what_was_done_is_told(tmp_path: Path, number: signal.Signals) -> None:
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    made = (Part("done", 9, 1, (sh("echo whole"),)), Part("cut", 60, 1, (sh(f"echo $$ > {tmp_path}/pid; sleep 60"),)))
    code, found = ran(tmp_path, 99, *made, Part("never", 9, 1, (sh("echo never"),)))
    assert code == number
    assert [(one.name, one.state) for one in found.values()] == [("done", PASSED), ("cut", FAILED), ("never", NOT_RUN)]
    assert found["cut"].why == found["never"].why == f"interrupted by {number.name}"
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_first_parts_end_within_four_minutes_and_files_are_few(tmp_path: Path) -> None:
    made = parts.on_gpu(tmp_path)
    assert [part.name for part in made] == NAMES
    assert sum(part.limit for part in made[: NAMES.index("tests")]) <= 236
    assert [part.name for part in parts.dry(tmp_path)] == NAMES
    files = {command.file for part in [*made, *parts.dry(tmp_path)] for command in part.commands} - {os.devnull}
    assert files | {parts.PROFILE} <= {parts.MACHINE, parts.PROFILE, parts.NCU, parts.TESTS, LOG}  # and gpu.txt, rows


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of NVIDIA's that only pretends: each program writes down what it was asked."""
    place = folder / "bin"
    place.mkdir()
    for name in ("nvidia-smi", "ncu", "compute-sanitizer", "python"):
        (place / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n')
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    return folder / "calls"


def test_what_is_run_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tools(tmp_path, monkeypatch)
    code, found = ran(tmp_path, 540, *parts.on_gpu(tmp_path))
    assert code == 0
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(NAMES, PASSED)
    asked = calls.read_text().splitlines()
    assert asked[0].startswith("nvidia-smi --query-gpu=name,driver_version")
    assert "kernels build" in asked[1]
    assert "tests.gpu_run.smoke cuda" in asked[2]
    step = next(number for number, line in enumerate(asked) if "gpu_run.step" in line)
    operator = [line for line in asked[:step] if "bench kernel" in line]
    assert len(operator) == 2  # unfold at one stage only
    assert all("--preset s --size 416 --dtype bf16" in line and f"--record {tmp_path}" in line for line in operator)
    assert "unfold" in operator[0].partition("--without")[2]
    assert "--stage 3" in operator[1]
    assert f"--kernels {tmp_path / parts.PROFILE}" in asked[step]
    (tests,) = (line for line in asked if "-m pytest" in line)
    assert tests.index("test_decoding_gpu") < tests.index("test_apex_gpu") < tests.index("tests/gpu --deselect")
    assert [line.split()[2] for line in asked if line.startswith("compute-sanitizer")] == ["memcheck", "racecheck"]
    assert all(line.endswith("tests.gpu_run.small cuda") for line in asked if line.startswith("compute-sanitizer"))
    for line in asked:  # what is asked of the command line is there
        words = line.split()
        if words[1:3] == ["-m", "laconvnet"]:
            _, rest = cli.parser().parse_known_args(words[3:])
            assert not rest, line


def test_tools_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(parts, "CUDA", tmp_path)
    lacking = {part.name: part.lacks for part in parts.on_gpu(tmp_path) if part.lacks}
    assert set(lacking) == {"facts", "ncu", "memcheck", "racecheck"}
    assert "compute-sanitizer" in str(lacking["memcheck"])


def test_ncu_is_asked_for_what_it_knows(tmp_path: Path) -> None:
    second = counters.METRICS[4][1]
    listed = f"gpu__time_duration  Counter  nanoseconds\n{second.partition('.')[0]}  Counter  cycle\n\n"
    assert counters.known(listed) == ["gpu__time_duration.sum", second]
    assert counters.known("") == [row[0] for row in counters.METRICS]
    ncu = tmp_path / "ncu"
    ncu.write_text('#!/bin/sh\n[ "$1" = --query-metrics ] && echo "gpu__time_duration  Counter" || echo "$*"\n')
    ncu.chmod(0o755)
    command = [sys.executable, "-m", "tests.gpu_run.counters", str(ncu)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--metrics gpu__time_duration.sum" in told
    assert f"--kernel-name {counters.KERNELS}" in told
    assert told.split()[-3:] == ["-m", "tests.gpu_run.launches", "cuda"]


def test_what_ncu_and_the_sanitizer_look_at_runs(capsys: pytest.CaptureFixture[str]) -> None:
    launches.main("cpu")
    small.main("cpu")
    assert capsys.readouterr().out == "done\n"


def test_a_wrong_operator_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.laconv
    monkeypatch.setattr(kernels, "laconv", lambda *given: 1.05 * right(*given))
    assert smoke.main("cpu") == 1
    assert "WRONG: out" in capsys.readouterr().out


def test_wheels_that_fit_and_are_lacking_come_on_the_path(tmp_path: Path) -> None:
    ours = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheels = {
        "made_here-1.0-py3-none-any": True,
        f"compiled-2.0-{ours}-{ours}-manylinux2014_x86_64": True,
        "stable-2.0-cp36-abi3-manylinux2014_x86_64.manylinux_2_28_x86_64": True,
        "another-2.0-cp27-cp27m-manylinux2014_x86_64": False,
        "pytest-0.1-py3-none-any": False,  # there is a newer one
        "numpy-999.0-py3-none-any": True,
    }
    for name in wheels:
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name.partition('-')[0]}/__init__.py", "")
    assert carried.unpack(tmp_path, tmp_path / "there") == sorted(
        n.partition("-")[0] for n, taken in wheels.items() if taken
    )
    assert (tmp_path / "there/made_here/__init__.py").is_file()
    assert carried.unpack(tmp_path / "nowhere", tmp_path) == []


def test_the_table_has_the_numbers_of_this_run(tmp_path: Path) -> None:
    operator = {
        "operation": "laconv",
        "direction": "both",
        "cache": "warm",
        "preset": "s",
        "size": 416,
        "dtype": "bf16",
    }
    whole = {"preset": "s", "size": 416, "precision": "bf16", "pictures": 64, "peak_mb": 1000.0, "note": None}
    made = [
        {"date": "2026-01-01", "bench": "kernel", "name": "old", "median": 9.0, "stage": 1, "note": None, **operator},
        {
            "date": "2026-02-02",
            "bench": "kernel",
            "name": "laconv",
            "median": 1.25,
            "stage": 1,
            "note": None,
            **operator,
        },
        {
            "date": "2026-02-02",
            "bench": "kernel",
            "name": "laconv",
            "median": 0.5,
            "stage": 2,
            "note": None,
            **operator,
        },
        {"date": "2026-02-02", "bench": "step", "name": "laconv", "median": 128.0, **whole},
        {
            "date": "2026-02-02",
            "bench": "engine",
            "name": "engine",
            "median": 64.0,
            "zero": 3,
            "finite": False,
            **whole,
        },
        {"date": "2026-02-02", "bench": "graph", "name": "captured", "median": None, "note": "failed: no capture"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made) + '{"date": "2026-02-')
    found = rows(tmp_path, "2026-02-01")
    assert len(found) == 5
    lines = headlines(found)
    assert lines[0].split()[-4:] == ["1:", "1.250", "2:", "0.500"]
    assert "128.00 ms a step, 500 images/s, peak 1000 MB" in lines[1]
    assert "ZeRO 3" in lines[2]
    assert "NOT FINITE" in lines[2]
    assert lines[3] == "graph captured: failed: no capture"
    said = table(
        [Outcome("ncu", NOT_RUN, "ncu is not installed"), Outcome("step", PASSED, "", 12.3, "x" * 999)], tmp_path, "9"
    )
    assert said.splitlines()[0].split(maxsplit=3) == ["ncu", "0", "s", "not run: ncu is not installed"]
    assert len(said.splitlines()[1]) < 160


def started(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """tests/gpu.sh on a machine that has PyTorch, numpy and pytest, and nothing else."""
    (folder / "sitecustomize.py").write_text(without(*GONE))
    given = {
        **os.environ,
        "OUT": str(folder / "out"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(folder),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = ["bash", str(ROOT / "tests/gpu.sh"), *words]
    return subprocess.Popen(command, env=given, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_dry_run_on_a_bare_machine(tmp_path: Path) -> None:
    run = started(tmp_path, "--dry-run")
    told, wrong = run.communicate(timeout=240)
    assert (run.returncode, wrong) == (0, ""), told + wrong
    out = tmp_path / "out"
    (measured,) = out.glob("*.jsonl")
    names = {measured.name, "gpu.txt", parts.MACHINE, parts.PROFILE, parts.TESTS, LOG}
    assert {path.name for path in out.iterdir()} == names
    assert told.endswith((out / "gpu.txt").read_text())
    states = {line.split()[0]: line for line in (out / "gpu.txt").read_text().splitlines()[: len(NAMES)]}
    assert list(states) == NAMES
    assert {name for name, line in states.items() if "passed" in line} == {
        "smoke",
        "operator",
        "step",
        "tests",
        "engine",
        "more",
    }
    assert all("only a GPU" in states[name] for name in ("facts", "build", "ncu", "memcheck", "racecheck", "graph"))
    kept = [json.loads(line) for line in measured.read_text().splitlines()]
    assert [name for name in dict.fromkeys(row["bench"] for row in kept)] == ["kernel", "step", "engine", "speed"]
    assert {row["id"].split("/")[0] for row in kept} == {"kernel", "train"}
    (left_out,) = (row for row in kept if row["bench"] == "engine")
    assert all(name in left_out["note"] for name in ("deepspeed", "accelerate"))
    assert all(row["median"] > 0 for row in kept if row["bench"] != "engine")
    assert "right: stage 1" in (out / parts.MACHINE).read_text()
    assert " ms " in (out / parts.PROFILE).read_text()
    assert "no GPU" in (out / parts.TESTS).read_text()


def pretended(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OUT": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PRETENDED, *words]
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE)


def begun(folder: Path) -> int:
    """The process of the slow part, once it is there."""
    end = time.monotonic() + 30
    while not (folder / "pid").exists() or not (folder / "pid").read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.05)
    return int((folder / "pid").read_text())


def test_a_kill_leaves_whole_what_was_done(tmp_path: Path) -> None:
    run = pretended(tmp_path)
    slow = begun(tmp_path)
    run.kill()
    run.communicate()
    os.killpg(slow, signal.SIGKILL)
    (line,) = (line for line in (tmp_path / "gpu.txt").read_text().splitlines() if "step made" not in line)
    assert line.split()[:4] == ["whole", "0", "s", "passed"]
    assert (tmp_path / "whole.txt").read_text().endswith("all of it\n")
    assert [row["bench"] for row in rows(tmp_path, "1")] == ["step"]


@pytest.mark.parametrize("by", ["time", "signal"])
def test_a_cut_of_the_whole_tells_what_was_done(tmp_path: Path, by: str) -> None:
    run = pretended(tmp_path, "--seconds", "8" if by == "time" else "99")
    slow = begun(tmp_path)
    if by == "signal":
        run.terminate()
    told, _ = run.communicate(timeout=30)
    assert not is_alive(slow)
    lines = [line.split(maxsplit=3) for line in (tmp_path / "gpu.txt").read_text().splitlines()]
    assert [(line[0], line[3].split()[0].strip(":")) for line in lines] == [
        ("whole", "passed"),
        ("slow", "FAILED"),
        ("never", "not"),
    ]
    assert told.endswith((tmp_path / "gpu.txt").read_text())
    assert run.returncode == (1 if by == "time" else 128 + signal.SIGTERM)
    assert ("stopped after" if by == "time" else "interrupted by SIGTERM") in lines[1][3]


def test_without_a_gpu_nothing_is_run(tmp_path: Path) -> None:
    run = started(tmp_path, CUDA_VISIBLE_DEVICES="")
    told, wrong = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "no GPU" in wrong
    assert "torch" in told
    assert not list((tmp_path / "out").iterdir())


def test_a_time_that_is_none_is_named(tmp_path: Path) -> None:
    run = started(tmp_path, SECONDS_IN_ALL="soon")
    _, wrong = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "--seconds" in wrong
    assert "soon" in wrong
