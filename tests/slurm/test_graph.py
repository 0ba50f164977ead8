"""Graphs of stages on a real SLURM: order, dependencies, failures, nothing twice, nothing half submitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import laconvnet
from laconvnet.files import read_object
from laconvnet.launch.graph.stages import plan
from laconvnet.launch.ports import PORTS
from laconvnet.launch.status import show
from laconvnet.pipeline.errors import ConfigError
from tests.slurm.suite import SITE, Work


def test_dependencies_and_a_failure_that_stops_only_what_needs_it(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = work.stages(
        """
        first: {run: [write, "{here}/f", first]}
        second: {run: [write, "{here}/f", second, "{first}"]}
        bad: {run: [say, 3, "expected a better world", "{first}"]}
        child: {run: [write, "{here}/f", child, "{bad}"]}
        grandchild: {run: [write, "{here}/f", grandchild, "{child}", "{second}"]}
        """
    )
    assert work.submit() == 0
    assert "5 submitted" in capsys.readouterr().err
    ended = work.ended(*stages.values())
    assert ended == {
        "first": ("done", None),
        "second": ("done", None),
        "bad": ("failed", "expected a better world"),
        "child": ("not started", "bad failed"),
        "grandchild": ("not started", "bad failed"),
    }
    assert not (stages["child"].folder / "f").exists()
    done = [read_object(stages[name].folder / "DONE.json") for name in ("first", "second")]
    assert done[0]["ended"] <= done[1]["started"]
    failed = read_object(stages["bad"].folder / "FAILED.json")
    assert (failed["rank"], failed["node"], failed["tail"]) == (0, "127.0.0.1", ["expected a better world"])
    # SLURM's own state tells the same: the script's exit code is the verdict.
    assert work.accounted(work.job(stages["second"]), work.job(stages["bad"])) == ["COMPLETED", "FAILED"]
    assert work.queue() == []  # those that can never start do not wait

    # The same command submits what is not done, and only that.
    jobs = {name: work.job(stage) for name, stage in stages.items()}
    assert work.submit() == 0
    assert "3 submitted" in capsys.readouterr().err
    assert {name for name, stage in stages.items() if work.job(stage) != jobs[name]} == {"bad", "child", "grandchild"}


def test_what_is_in_the_queue_is_found_there(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    stages = work.stages('long: {run: [count, "{here}", 600, 0.2]}\nafter: {run: [write, "{here}/f", x, "{long}"]}')
    assert work.submit() == 0
    work.wait(lambda: work.rows()["long"]["state"] == "running", "the stage did not start")
    jobs = [work.job(stage) for stage in stages.values()]
    capsys.readouterr()
    assert work.submit() == 0
    output = capsys.readouterr().err
    assert "found in the queue, running" in output
    assert "0 submitted" in output
    assert [work.job(stage) for stage in stages.values()] == jobs
    (stages["after"].folder / "job.json").unlink()  # a launcher killed between sbatch and its note
    assert work.submit() == 0
    assert "0 submitted" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=rf"still in the queue: long \(job {jobs[0]}\)"):
        work.submit(only="long", force=True)
    assert sorted(work.queue()) == sorted(jobs)


def test_ranks_nodes_devices_and_the_code_that_was_submitted(work: Work) -> None:
    stages = work.stages('four: {run: [environment, "{here}"], processes: 4, gpus: 2, threads: 2}')
    assert work.submit() == 0
    (four,) = stages.values()
    assert work.ended(four) == {"four": ("done", None)}
    ranks = [json.loads((four.folder / f"{rank}.json").read_text()) for rank in range(4)]
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in ranks] == [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")]
    assert [one["SLURMD_NODENAME"] for one in ranks] == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2
    assert {one["CUDA_VISIBLE_DEVICES"] for one in ranks} == {"0,1,2,3"}  # a node's; the local rank picks
    assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) for one in ranks} == {("4", "2")}
    assert {one["MASTER_ADDR"] for one in ranks} == {"127.0.0.1"}
    assert {one["OMP_NUM_THREADS"] for one in ranks} == {one["SLURM_CPUS_PER_TASK"] for one in ranks} == {"2"}
    (port,) = {one["MASTER_PORT"] for one in ranks}
    assert int(port) in PORTS
    job = read_object(four.folder / "job.json")
    assert {one["code"] for one in ranks} == {str(work.out / job["code"])}


def test_a_queued_job_runs_what_was_submitted(work: Work) -> None:
    """Neither a configuration nor the code may be changed under a job that waits."""
    Path("own.yaml").write_text("seed: 1\n")
    stages = work.stages('a: {run: [write, "{here}/f", x, --config, own.yaml]}')
    assert work.submit(SITE.replace("partition: main", "partition: main\nsbatch: {begin: now+3}")) == 0
    Path("own.yaml").write_text("seed: 2\n")
    shutil.copytree(laconvnet.ROOT / "launch", work.folder / "laconvnet" / "launch")
    (work.folder / "laconvnet" / "__init__.py").touch()
    (work.folder / "laconvnet" / "launch" / "job.py").write_text("raise ImportError('edited while queued')")
    (a,) = stages.values()
    work.wait(lambda: (a.folder / "DONE.json").exists(), "the stage did not end")
    done = read_object(a.folder / "DONE.json")
    copy = a.folder / "jobs" / "config-4-own.yaml"
    assert done["command"].endswith(f"--config {copy}")
    assert copy.read_text() == "seed: 1\n"
    assert a.fingerprint != plan(work.file)[0].fingerprint


def test_everything_wrong_is_told_at_once_and_nothing_is_submitted(work: Work) -> None:
    work.stages(
        """
        fine: {run: [shards, generate, --out, "{here}/raw", --pictures, 8]}
        lost: {run: [shards, build, refcoco, --root, "{fine}/raw/refer", --out, "{here}"], partition: moon}
        greedy: {run: [report, "{fine}"], gpus: 1, processes: 6, nodes: 1}
        many: {run: [report, "{fine}"], processes: 3, nodes: 3}
        wide: {run: [report, "{fine}"], processes: 3, threads: 3}
        typo: {run: [train, --run, "{here}", --data.folder, "{fine}", --optimizer.lrr, 1]}
        absent: {run: [shards, build, refcoco, --root, nowhere, --out, "{here}"]}
        uneven: {run: [train, --run, "{here}", --data.folder, "{fine}", --data.batch, 8], processes: 3}
        """
    )
    work.entry = "laconvnet.launch.cli:main"
    with pytest.raises(ConfigError) as caught:
        work.submit()
    lines = str(caught.value).splitlines()
    wanted = [
        ("'lost'", "partition", "'moon'", "cpu, main, urgent"),
        ("'greedy'", "6 GPUs a node", "gpus_per_node 4"),
        ("'many'", "nodes: 3", "main has 2"),
        ("'wide'", "3 processes a node of 3 cores", "8 cores"),
        ("'typo'", "lrr"),
        ("'absent'", "--root nowhere", "no such file"),
        ("'uneven'", "processes: got 3", "data.batch 8"),
    ]
    for parts in wanted:
        assert any(all(part in line for part in parts) for line in lines), parts
    assert len(lines) == len(wanted)
    assert work.queue() == []
    assert not list(work.out.glob("code-*"))

    # What only sbatch knows, told as clearly as it does.
    work.stages("a: {run: [doctor]}\nb: {run: [doctor, --json], threads: 1}")
    with pytest.raises(ConfigError) as caught:
        work.submit(SITE.replace("account: lab", "account: lab\nconstraint: a100"))
    assert "stage 'a': sbatch: " in str(caught.value)
    assert "stage 'b': sbatch: " in str(caught.value)
    assert work.queue() == []


def test_shards_by_ranks_and_by_an_array_have_the_bytes_of_one_process(work: Work, raw: Path) -> None:
    build = f'shards, build, refcoco, --root, "{raw}/refer", --shard-bytes, 40000, --out'
    work.entry = "laconvnet.launch.cli:main"
    stages = work.stages(
        f"""
        whole: {{run: [{build}, "{{here}}/set"]}}
        shares: {{run: [{build}, "{{here}}/set", --task, rank], processes: 4, nodes: 2}}
        joined: {{run: [{build}, "{{shares}}/set"]}}
        spread: {{run: [{build}, "{{here}}/set", --task, "{{task}}"], array: 3, at_once: 2}}
        merged: {{run: [{build}, "{{spread}}/set"]}}
        """
    )
    assert work.submit() == 0
    assert set(work.ended(*stages.values()).values()) == {("done", None)}

    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    whole = files(stages["whole"].folder / "set")
    assert len([name for name in whole if name.endswith(".tar")]) > 4
    assert files(stages["shares"].folder / "set") == whole
    assert files(stages["spread"].folder / "set") == whole


def test_cancel(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    from laconvnet.launch.control import cancel

    stages = work.stages(
        """
        long: {run: [count, "{here}", 600, 0.2]}
        after: {run: [write, "{here}/f", x, "{long}"]}
        other: {run: [count, "{here}", 600, 0.2]}
        """
    )
    assert work.submit() == 0
    work.wait(lambda: (stages["long"].folder / "notes").exists(), "the stage did not start")
    assert cancel(work.out, "long") == 0
    assert work.ended(stages["long"], stages["after"])["long"] == ("stopped", "cancelled; the same command resumes")
    assert work.rows()["other"]["state"] == "running"
    assert cancel(work.out) == 0
    work.ended(*stages.values())
    work.empty()
    capsys.readouterr()
    assert show(work.out) == 0
    assert "cancelled" in capsys.readouterr().out
