"""Submitting a graph, with SLURM's commands played by scripts: what they are asked, what is left when they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.files import find_object, publish_json
from laconvnet.launch import cli, precheck
from laconvnet.launch.control import cancel, logs
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import Stage, plan, read
from laconvnet.launch.slurm import queue, submission
from laconvnet.launch.slurm.queue import Partition, Queued
from laconvnet.launch.status import show, status
from laconvnet.pipeline.errors import ConfigError
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
GRAPH = """
raw: {run: [write, "{here}/f", x]}
left: {run: [write, "{here}/f", x, "{raw}"], processes: 2}
right: {run: [write, "{here}/f", x, "{raw}"]}
last: {run: [write, "{here}/f", x, "{left}", "{right}"]}
"""


@pytest.fixture
def submit(stages: Write, slurm: Path) -> Callable[..., int]:
    file = stages(GRAPH)
    return lambda **options: launch(file, LINE, cluster="site.yaml", **options)


@pytest.fixture
def four(stages: Write) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(stages(GRAPH))}


def queued(slurm: Path, four: dict[str, Stage], **states: str) -> None:
    """squeue's answer: the stages' jobs in these states."""
    lines = []
    for name, state in states.items():
        job = find_object(four[name].folder / "job.json")
        assert job is not None
        lines.append(f"{job['id']}|{state}|Dependency|{four[name].folder}\n")
    (slurm / "queue").write_text("".join(lines))


def finish(stage: Stage) -> None:
    publish_json(
        stage.folder / "DONE.json", {"identity": stage.fingerprint, "started": 1.0, "ended": 2.0, "seconds": 1.0}
    )


def calls(slurm: Path) -> list[str]:
    file = slurm / "calls"
    return [line.strip() for line in file.read_text().splitlines()] if file.exists() else []


def test_a_graph_is_submitted_once(
    submit: Callable[..., int], slurm: Path, four: dict[str, Stage], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0
    assert calls(slurm) == [
        "sbatch 101",
        "sbatch 102 dependency=afterok:101",
        "sbatch 103 dependency=afterok:101",
        "sbatch 104 dependency=afterok:102:103",
    ]
    job = find_object(four["left"].folder / "job.json")
    assert job is not None
    assert (job["id"], job["cluster"], job["processes"], job["nodes"]) == ("102", "slurm", 2, 1)
    assert (Path("runs") / job["code"] / "laconvnet" / "launch" / "slurm" / "batch.py").exists()
    assert (Path("runs") / job["code"] / "laconvnet" / "files.py").exists()

    publish_json(four["raw"].folder / "DONE.json", {"identity": four["raw"].fingerprint, "seconds": 1.0})
    queued(slurm, four, left="RUNNING", right="PENDING")
    capsys.readouterr()
    assert submit() == 0  # the last one is gone from the queue
    assert calls(slurm)[4:] == ["sbatch 105 dependency=afterok:102:103"]
    output = capsys.readouterr()
    assert output.out == ""
    shown = [line.split(maxsplit=2) for line in output.err.splitlines()[:5]]
    assert shown == [
        ["stage", "job", "state"],
        ["raw", "-", "found done"],
        ["left", "102", "found in the queue, running"],
        ["right", "103", "found in the queue, pending"],
        ["last", "105", "submitted"],
    ]
    with pytest.raises(ConfigError, match=r"queue: left \(job 102\), right \(job 103\).*`laconvnet cancel`"):
        submit(force=True)


def test_a_refusal_half_way_leaves_nothing(submit: Callable[..., int], slurm: Path, four: dict[str, Stage]) -> None:
    (slurm / "refuse").write_text("103")
    with pytest.raises(ConfigError, match=r"stage 'right': .*QOSMaxSubmit; nothing was submitted") as caught:
        submit()
    assert "\n" not in str(caught.value)
    assert calls(slurm)[-1] == "scancel 102 101"
    assert not any((stage.folder / "job.json").exists() for stage in four.values())
    (slurm / "refuse").unlink()
    assert submit() == 0


def test_what_sbatch_would_refuse_is_known_before(submit: Callable[..., int], slurm: Path) -> None:
    (slurm / "refuse-test").write_text("sbatch: error: Invalid account\n")
    with pytest.raises(ConfigError) as caught:
        submit()
    lines = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in lines] == ["raw", "left", "right", "last"]
    assert all(line.endswith(": sbatch: Invalid account") for line in lines)
    assert calls(slurm) == []
    assert "#SBATCH --cpus-per-task=1" in (slurm / "test-only").read_text()
    assert not Path("runs").exists()


def test_everything_wrong_is_told_before_anything_is_submitted(stages: Write, slurm: Path) -> None:
    file = stages(
        """
        fine: {run: [shards, generate, --out, "{here}/raw", --pictures, 8], partition: main}
        lost: {run: [shards, build, refcoco, --root, "{fine}/raw/refer", --out, "{here}"], partition: moon}
        greedy: {run: [report, "{fine}"], gpus: 1, processes: 6, nodes: 1}
        many: {run: [report, "{fine}"], processes: 3, nodes: 3}
        wide: {run: [report, "{fine}"], processes: 3, threads: 3}
        late: {run: [report, "{fine}"], gpus: 1, minutes: 60, partition: short}
        typo: {run: [train, --run, "{here}", --data.folder, "{fine}", --optimizer.lrr, 1]}
        absent: {run: [shards, pretrain-set, --inputs, "{fine}", nowhere=0.5, --out, "{here}"]}
        unknown: {run: [shards, bulid]}
        flag: {run: [eval, "{fine}", --data, "{fine}", --split, val, --fast]}
        uneven: {run: [train, --run, "{here}", --data.folder, "{fine}", --data.batch, 8], processes: 3}
        """
    )
    with pytest.raises(ConfigError) as caught:
        launch(file, cli.parser(), cluster="site.yaml")
    wanted = [
        ("'lost'", "partition", "'moon'", "main, short"),
        ("'greedy'", "6 GPUs a node", "gpus_per_node 4"),
        ("'many'", "nodes: 3", "has 2"),
        ("'wide'", "3 processes a node of 3 cores", "8 cores"),
        ("'late'", "minutes: 60", "allows 30"),
        ("'late'", "GPUs a node: x 1", "has none"),
        ("'typo'", "lrr"),
        ("'absent'", "--inputs nowhere", "no such file"),
        ("'unknown'", "bulid"),
        ("'flag'", "unknown argument '--fast'"),
        ("'uneven'", "processes: got 3", "data.batch 8"),
    ]
    lines = str(caught.value).splitlines()
    for parts in wanted:
        assert any(all(part in line for part in parts) for line in lines), parts
    assert len(lines) == len(wanted)
    assert calls(slurm) == []
    assert not Path("runs").exists()


def test_where_stages_cannot_be_written(stages: Write, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stages("a: {run: [doctor]}")
    Path("taken").write_text("")
    with pytest.raises(ConfigError, match=r"taken/x: .*taken is not a folder that this user may write to"):
        launch(file, LINE, cluster="site.yaml", out="taken/x")
    with pytest.raises(ConfigError, match="reads % in a file name as a pattern"):
        launch(file, LINE, cluster="site.yaml", out="100%")
    monkeypatch.setattr("laconvnet.launch.slurm.capacity.FREE_BYTES", 1 << 60)
    with pytest.raises(ConfigError, match="MiB are free there, expected at least"):
        launch(file, LINE, cluster="site.yaml")


def test_a_machine_without_slurm(submit: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch, squeue, scancel, scontrol, sinfo: no such commands here"):
        submit()


def test_a_controller_that_does_not_answer(
    submit: Callable[..., int], slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0
    (slurm / "down").touch()
    for options in ({}, {"only": "last"}):
        with pytest.raises(ConfigError, match=r"^squeue: exit code 1$"):
            submit(**options)
    with pytest.raises(ConfigError, match=r"^squeue: exit code 1$"):
        cancel(Path("runs"))
    assert len(calls(slurm)) == 4
    capsys.readouterr()
    assert submit(dry_run=True) == 0  # needs no SLURM
    with pytest.raises(ConfigError, match=r"'last' reads .* neither done nor in the queue: left, ri"):
        submit(dry_run=True, only="last")


def test_rows_say_what_files_and_slurm_say(
    submit: Callable[..., int], slurm: Path, four: dict[str, Stage], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0

    def rows() -> dict[str, tuple[str, str | None]]:
        return {row["stage"]: (row["state"], row["reason"]) for row in status("runs")}

    def note(name: str, line: str) -> None:
        (four[name].folder / "starts.jsonl").write_text(line + "\n")

    queued(slurm, four, raw="RUNNING", left="PENDING", right="PENDING", last="PENDING")
    note("raw", '{"job": "101", "start": 0, "event": "start", "time": 5.0}')
    assert rows()["raw"] == ("running", None)
    assert rows()["left"] == ("waiting", "Dependency")
    # What a rank has written is not the last word while the job is there: it may be tried again.
    publish_json(four["raw"].folder / "FAILED.json", {"ended": 50.0, "reason": "EADDRINUSE"})
    assert rows()["raw"] == ("running", None)
    note("raw", '{"job": "101", "start": 2, "event": "end", "reason": "time limit 3 of at most 100", "time": 5.0}')
    queued(slurm, four, raw="PENDING", left="PENDING", right="PENDING", last="PENDING")
    assert rows()["raw"] == ("waiting", "Dependency; time limit 3 of at most 100")
    assert show("runs") == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0].split()[:5] == ["stage", "state", "job", "starts", "step"]
    assert text[1].split()[:4] == ["raw", "waiting", "101", "3"]

    publish_json(four["raw"].folder / "DONE.json", {"identity": four["raw"].fingerprint, "seconds": 1.0})
    publish_json(four["left"].folder / "FAILED.json", {"ended": 50.0, "reason": "no luck"})
    note("right", '{"job": "103", "start": 0, "event": "start", "time": 5.0}')
    (slurm / "queue").write_text("")
    (slurm / "books").write_text("103|TIMEOUT\n104|CANCELLED by 0\n")
    (four["right"].folder / "jobs" / "103_batch.log").write_text("one\nslurmstepd: error: DUE TO TIME LIMIT\n")
    assert rows() == {
        "raw": ("done", None),
        "left": ("failed", "no luck"),
        "right": ("failed", "SLURM: TIMEOUT: slurmstepd: error: DUE TO TIME LIMIT"),
        "last": ("not started", "left failed"),
    }
    (slurm / "books").write_text("103|CANCELLED by 0\n")
    assert rows()["right"] == ("stopped", "cancelled; the same command resumes")
    (slurm / "down").touch()
    assert rows()["right"] == ("running", "SLURM cannot be asked here")


def test_logs(
    submit: Callable[..., int], slurm: Path, four: dict[str, Stage], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"no graph\.json is there"):
        logs(Path("runs"), "left")
    assert submit() == 0
    with pytest.raises(ConfigError, match="'lift' is unknown; expected one of raw, left, right, last"):
        logs(Path("runs"), "lift")
    with pytest.raises(ConfigError, match="'left': its job has written nothing yet"):
        logs(Path("runs"), "left")
    jobs = four["left"].folder / "jobs"
    (jobs / "102_0_log.err").write_text("10%\r20%\rstep 1\nstep 2\n")
    (jobs / "102_1_log.err").write_text("other\n")
    (jobs / "102_batch.log").write_text("loading\n")
    (jobs / "101_0_log.err").write_text("of another job\n")
    capsys.readouterr()
    assert logs(Path("runs"), "left", rank=0) == 0
    assert capsys.readouterr().out == "step 1\nstep 2\n"
    assert logs(Path("runs"), "left") == 0
    assert capsys.readouterr().out == (
        "==> 102_batch.log <==\nloading\n==> 102_0_log.err <==\nstep 1\nstep 2\n==> 102_1_log.err <==\nother\n"
    )
    with pytest.raises(ConfigError, match=r"rank 7 \(of 2\) has written nothing"):
        logs(Path("runs"), "left", rank=7)


def test_logs_follow_until_the_stage_has_ended(
    submit: Callable[..., int],
    four: dict[str, Stage],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert submit() == 0
    log = four["raw"].folder / "jobs" / "101_0_log.err"
    texts = iter(["one\n", "one\ntwo\n", None])

    def sleep(_: float) -> None:
        text = next(texts)
        if text is None:
            publish_json(four["raw"].folder / "DONE.json", {"identity": four["raw"].fingerprint})
        else:
            log.write_text(text)

    monkeypatch.setattr("laconvnet.launch.control.time.sleep", sleep)
    capsys.readouterr()
    assert logs(Path("runs"), "raw", rank=0, follow=True) == 0
    assert capsys.readouterr().out == "one\ntwo\n"


def test_cancel(
    submit: Callable[..., int], slurm: Path, four: dict[str, Stage], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0
    publish_json(four["raw"].folder / "DONE.json", {"identity": four["raw"].fingerprint})
    queued(slurm, four, left="RUNNING", right="PENDING", last="PENDING")
    assert cancel(Path("runs"), "left") == 0
    assert calls(slurm)[-1] == "scancel 102"
    assert cancel(Path("runs")) == 0
    assert calls(slurm)[-1] == "scancel 104 103 102"
    assert "cancelled left (job 102), right (job 103), last (job 104)" in capsys.readouterr().err
    (slurm / "queue").write_text("")
    assert cancel(Path("runs")) == 0
    assert "nothing was running" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="'lift' is unknown"):
        cancel(Path("runs"), "lift")


def test_inputs_may_be_in_the_queue(submit: Callable[..., int], slurm: Path, four: dict[str, Stage]) -> None:
    with pytest.raises(ConfigError, match=r"'last' .* neither done nor in the queue: left, right; run"):
        submit(only="last")
    assert submit(from_="raw") == 0
    finish(four["raw"])
    finish(four["right"])
    queued(slurm, four, left="RUNNING")
    assert submit(only="last") == 0
    assert calls(slurm)[4:] == ["sbatch 105 dependency=afterok:102"]
    queued(slurm, four)
    with pytest.raises(ConfigError, match=r"neither done nor in the queue: left;"):
        submit(from_="last")
    assert len(calls(slurm)) == 5


def test_an_input_that_leaves_the_queue_meanwhile_is_told(
    submit: Callable[..., int], slurm: Path, four: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit() == 0
    queued(slurm, four, left="RUNNING", right="RUNNING")
    check = submission.check

    def checked(*arguments: Any) -> Any:
        queued(slurm, four, right="RUNNING")
        return check(*arguments)

    monkeypatch.setattr(submission, "check", checked)
    with pytest.raises(ConfigError, match=r"'last': 'left' .* left the queue .* nothing was submitted"):
        submit(only="last")
    assert len(calls(slurm)) == 4


def test_a_configuration_that_many_stages_name_is_loaded_once(
    stages: Write, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laconvnet.pipeline import config

    loaded: list[tuple[str, ...]] = []
    load = config.load

    def counted(file: Path | None, keys: list[str]) -> config.TrainConfig:
        loaded.append(tuple(keys))
        return load(file, keys)

    monkeypatch.setattr(config, "load", counted)
    Path("run.yaml").write_text("data: {batch: 8}\n")
    train = 'train, --config, run.yaml, --run, "{here}", --data.folder'
    lines = [f's{n}: {{run: [{train}, "{{s{n - 1}}}"], processes: {1 + n % 2}}}' for n in range(1, 30)]
    file = stages(
        "\n".join([f"s0: {{run: [{train}, .]}}", *lines, f"x: {{run: [{train}, ., --seed, 5], processes: 3}}"])
    )
    problems = precheck.commands(read(file), plan(file), cli.parser())
    assert [problem.split("'")[1] for problem in problems] == ["x"]
    assert len(loaded) == 2


def test_what_slurm_prints_is_read(slurm: Path) -> None:
    offered = queue.partitions()
    assert offered == {
        "": Partition(2, 8, float("inf"), {"": 4}),
        "main": Partition(2, 8, float("inf"), {"": 4}),
        "short": Partition(1, 8, 30, {}),
    }
    sinfo = "gpu|3+|64+|1-12:00:00|gpu:a100:8(S:0-1),nvme:1\ngpu|1|32|2-00:00:00|gpu:h100:4\n"
    (slurm / "sinfo").write_text(f"#!/bin/bash\necho -n '{sinfo.replace('3+', '3')}'\n")
    assert queue.partitions() == {"gpu": Partition(4, 64, 2880, {"a100": 8, "h100": 4})}
    (slurm / "queue").write_text("7|RUNNING|None|/a|b c\n8|CANCELLED|x|/d\n9_[1-3]|PENDING|Priority|\n")
    assert queue.queued() == [Queued("7", "RUNNING", "None", "/a|b c"), Queued("9_[1-3]", "PENDING", "Priority", "")]
    task = Queued("9_3", "PENDING", "Priority", "/a/array-4")
    assert (task.array, task.folder) == ("9", "/a/array-4/3")
    (slurm / "books").write_text("7|CANCELLED by 0\n8|COMPLETED\n")
    assert queue.ended(["7", "8"]) == {"7": "CANCELLED", "8": "COMPLETED"}
    (slurm / "books").write_text("9_0|COMPLETED\n9_[3,5-7%2]|CANCELLED by 0\n")
    assert queue.ended(["9_0"]) == {"9_0": "COMPLETED"} | {f"9_{task}": "CANCELLED" for task in (3, 5, 6, 7)}
    assert queue.ended([]) == {}
