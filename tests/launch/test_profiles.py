"""Which stage asks what of a site: profiles, a stage's own `site`, limits of arrays and of the queue, variables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from laconvnet.launch.doctor.check import PlannedRun
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import read
from laconvnet.launch.slurm import capacity, queue
from laconvnet.launch.slurm import cluster as sites
from laconvnet.pipeline.errors import ConfigError
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
CPU = "a: {run: [x]}"
GPU = "a: {run: [x], gpus: GPUS}"


@pytest.fixture
def asked(
    stages: Write, slurm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], set[str]]:
    """What the script of stage a asks for, of the options that a site decides."""
    names = ("partition", "account", "qos", "constraint", "gpus-per-node", "gres", "mem", "exclusive", "reservation")

    def options(stage: str, site: str) -> set[str]:
        Path("site.yaml").write_text(site)
        capsys.readouterr()
        assert launch(stages(stage), LINE, cluster="site.yaml", dry_run=True) == 0
        lines = capsys.readouterr().out.splitlines()
        found = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")}
        return {line for line in found if line.startswith(names)}

    return options


def test_the_top_of_a_file_speaks_of_nodes_with_gpus(asked: Callable[[str, str], set[str]]) -> None:
    old = "partition: gpu\naccount: lab\ngpus_per_node: 8\nconstraint: a100\nmem: 400G\n"
    old += "sbatch: {exclusive: true, reservation: r, gres: 'nvme:1'}\n"
    everything = {"partition=gpu", "account=lab", "constraint=a100", "mem=400G", "exclusive", "reservation=r"}
    everything |= {"gres=nvme:1"}
    assert asked(CPU, old) == everything  # as it was before there were profiles
    assert asked(GPU.replace("GPUS", "8"), old) == everything | {"gpus-per-node=8"}
    assert asked(CPU, f"{old}profiles: {{cpu: {{partition: cpu}}}}\n") == {
        "partition=cpu", "account=lab", "reservation=r",
    }  # fmt: skip
    big = "profiles: {cpu: {partition: cpu}, big: {mem: 900G, constraint: big, sbatch: {exclusive: true}}}\n"
    assert asked("a: {run: [x], profile: big}", old + big) == {
        *("partition=gpu", "account=lab", "reservation=r", "mem=900G", "constraint=big", "exclusive"),
    }
    assert asked("a: {run: [x], profile: big, gpus: 8}", old + big) == {
        *("partition=gpu", "account=lab", "reservation=r", "mem=900G", "constraint=big", "exclusive"),
        *("gres=nvme:1", "gpus-per-node=8"),
    }


@pytest.mark.parametrize(
    ("gpus", "site", "wanted"),
    [
        (1, "mem: 400G", {"mem=50G"}),
        (2, "mem: 400G\nsbatch: {exclusive: true}", {"mem=100G"}),
        (8, "mem: 400G\nsbatch: {exclusive: true}", {"mem=400G", "exclusive"}),
        (3, "mem: 1G", {"mem=384M"}),
        (1, "mem: 100", {"mem=12800K"}),
        (1, "mem: 0", set()),
        (8, "mem: 0", {"mem=0"}),
        (2, "mem_per_gpu: 50G", {"mem-per-gpu=50G"}),
        (2, "mem_per_cpu: 2G", {"mem-per-cpu=2G"}),
        (2, "mem: 8G\nprofiles: {gpu: {mem_per_gpu: 50G}}", {"mem-per-gpu=50G"}),
    ],
)
def test_a_stage_with_some_of_a_nodes_gpus_leaves_the_rest(
    asked: Callable[[str, str], set[str]], gpus: int, site: str, wanted: set[str]
) -> None:
    found = asked(GPU.replace("GPUS", str(gpus)), f"gpus_per_node: 8\n{site}\n")
    assert found == wanted | {f"gpus-per-node={gpus}"}


def test_a_stage_says_more_by_itself(asked: Callable[[str, str], set[str]]) -> None:
    site = "gpus_per_node: 8\nmem: 400G\nqos: high\nsbatch: {exclusive: true, reservation: r}\n"
    own = "site: {mem: 300G, gpu_type: h100, gpus_by: gres, sbatch: {exclusive: true, reservation: false}}"
    assert asked(f"a: {{run: [x], gpus: 1, {own}}}", site) == {"gres=gpu:h100:1", "mem=300G", "exclusive", "qos=high"}
    # Numbers and truth values of a stages file arrive as texts, and by values of the file.
    text = '{run: [x], gpus: 4, site: {gpus_per_node: "{n}", sbatch: {nice: 5, hint: "1.5"}, setup: [ulimit -n 9]}}'
    Path("stages.yaml").write_text(f"folder: r\nvalues: {{n: 2}}\nstages: {{a: {text}}}")
    (stage,) = read("stages.yaml", given={"n": "4"}).stages
    assert stage.site is not None
    assert (stage.site.gpus_per_node, stage.site.setup) == (4, ("ulimit -n 9",))
    assert dict(stage.site.sbatch or {}) == {"nice": 5, "hint": "1.5"}


def test_everything_wrong_with_profiles_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        """
        mem: 4G
        mem_per_gpu: 4G
        profiles:
          cpu: {partiton: cpu, mem: lots}
          gpu: {gpus_by: gpus, sbatch: {output: x, mem-per-cpu: 1G}}
          long: 5
          retrying:
            retries: 5
        """
    )
    with pytest.raises(ConfigError) as caught:
        sites.read(file)
    wanted = [
        ("line 3", "mem and mem_per_gpu", "one of them"),
        ("line 5", "profiles: cpu", "'partiton'", "partition"),
        ("line 5", "profiles: cpu: mem", "'lots'", "64G"),
        ("line 6", "profiles: gpu: gpus_by", "'gpus'", "gpus-per-node or gres"),
        ("line 6", "profiles: gpu: sbatch", "'output'", "laconvnet itself"),
        ("line 6", "profiles: gpu: sbatch", "'mem-per-cpu'", "mem_per_cpu beside"),
        ("line 7", "profiles: long", "got 5", "a mapping"),
        ("line 9", "profiles: retrying", "'retries' is unknown"),
    ]
    lines = str(caught.value).splitlines()
    for parts in wanted:
        assert any(all(part in line for part in (str(file), *parts)) for line in lines), parts
    assert len(lines) == len(wanted)


def test_what_is_wrong_with_a_stages_own_keys_is_told(stages: Write, slurm: Path) -> None:
    file = stages(
        """
        a: {run: [x], site: {partition: cpu, minutes: 5, cpus_per_task: 3}}
        b: {run: [x], site: {mem: lots, gpu: 1}}
        c: {run: [x], site: mem}
        d: {run: [x], profile: ""}
        """
    )
    with pytest.raises(ConfigError) as caught:
        read(file)
    wanted = [
        *(("'a'", f"'{key}'", f"write {own} beside") for key, own in
          (("partition", "partition"), ("minutes", "minutes"), ("cpus_per_task", "threads"))),
        ("'b'", "site: mem", "'lots'", "64G"),
        ("'b'", "site: key 'gpu' is unknown", "gpu_type"),
        ("'c'", "site", "'mem'", "mapping"),
        ("'d'", "profile", "not empty"),
    ]  # fmt: skip
    lines = str(caught.value).splitlines()
    for parts in wanted:
        assert any(all(part in line for part in ("line ", *parts)) for line in lines), parts
    assert len(lines) == len(wanted)

    file = stages("a: {run: [x], profile: moon}\nb: {run: [x], profile: sun}")
    Path("site.yaml").write_text("profiles: {cpu: {}, sun: {}}")
    with pytest.raises(ConfigError, match=r"^[^\n]*'a': profile: got 'moon', .*cpu, sun$"):
        launch(file, LINE, cluster="site.yaml", dry_run=True)
    assert launch(file, LINE, dry_run=True) == 0  # on one machine a profile says nothing


def test_arrays_that_the_site_does_not_take(stages: Write, slurm: Path) -> None:
    file = stages('a: {run: [x, "{task}"], array: 64}\nb: {run: [x, "{task}"], array: 100}\nc: {run: [x]}')
    (slurm / "config").write_text("MaxAge = 0\nMaxArraySize            = 65\nMaxJobCount = 5\n")
    for dry in (True, False):
        with pytest.raises(ConfigError, match=r"^[^\n]*'b': array: got 100, .* 65 \(MaxArraySize\); write array: 65"):
            launch(file, LINE, cluster="site.yaml", dry_run=dry)
    assert not Path("runs").exists()
    Path("site.yaml").write_text("max_array: 10\n")
    with pytest.raises(ConfigError) as caught:
        launch(file, LINE, cluster="site.yaml")
    assert [line.split("'")[1] for line in str(caught.value).splitlines()] == ["a", "b"]
    assert "the site takes 10 (max_array)" in str(caught.value)
    Path("site.yaml").write_text("cpus_per_task: 1\nmax_array: 100\n")
    (slurm / "config").unlink()
    assert launch(file, LINE, cluster="site.yaml") == 0


def test_more_jobs_than_a_user_may_have(stages: Write, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stages('a: {run: [x, "{task}"], array: 6}\nb: {run: [x]}')
    Path("site.yaml").write_text("account: lab\nqos: short\ncpus_per_task: 1\n")
    (slurm / "sacctmgr").write_text(
        f'#!/bin/bash\necho "$*" >> {slurm}/asked\n'
        f'case "$*" in *association*lab*MaxSubmitJobs) cat {slurm}/limits;; *qos?short*) echo 9;; esac\n'
    )
    (slurm / "queue").write_text("1|RUNNING|None|\n2|RUNNING|None|\n")
    (slurm / "limits").write_text("8\n")
    told = r"7 jobs would be submitted and 2 of yours are in the queue, .* takes 8 \(MaxSubmitJobs\); .*--only"
    with pytest.raises(ConfigError, match=told):
        launch(file, LINE, cluster="site.yaml")
    assert not (slurm / "calls").exists()
    for limit, most in (("", 9), ("\n", 9), ("3\n\n", 9), ("20\n10\n", 9), ("7\n", 7), ("5\n6\n", 6)):
        (slurm / "limits").write_text(limit)
        assert queue.most_jobs("lab", "short") == most
    (slurm / "limits").write_text("\n")  # the QOS allows nine
    assert launch(file, LINE, cluster="site.yaml") == 0
    (slurm / "sacctmgr").unlink()
    assert queue.most_jobs("lab", "short") is None


def test_variables_that_would_change_a_job_are_named(
    stages: Write, slurm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stages(CPU)
    for name, value in {
        "SBATCH_ACCOUNT": "x",
        "SLURM_NTASKS": "4",
        "SBATCH_MEM_PER_GPU": "1",
        "SLURM_CONF": "c",
    }.items():
        monkeypatch.setenv(name, value)
    (slurm / "sbatch").write_text(f"#!/bin/bash\nenv > {slurm}/environment\necho Submitted batch job 1\n")
    assert launch(file, LINE, cluster="site.yaml") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "SBATCH" in line]
    names, _, rest = line.removeprefix("laconvnet: ").partition(": ")
    assert names == "SBATCH_ACCOUNT, SBATCH_MEM_PER_GPU, SLURM_NTASKS"
    assert "not passed on" in rest
    assert rest.endswith("as account, mem_per_gpu")
    environment = (slurm / "environment").read_text()
    assert "SLURM_CONF=c" in environment
    assert "SBATCH_" not in environment
    assert "SLURM_NTASKS" not in environment
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # its own variables are no wish of the user's
    assert launch(file, LINE, cluster="site.yaml", dry_run=True) == 0
    assert "laconvnet: SBATCH_ACCOUNT, SBATCH_MEM_PER_GPU: not passed on" in capsys.readouterr().err
    for name in ("SBATCH_ACCOUNT", "SBATCH_MEM_PER_GPU"):
        monkeypatch.delenv(name)
    assert launch(file, LINE, cluster="site.yaml", dry_run=True) == 0
    assert capsys.readouterr().err == ""


def test_stages_without_gpus_on_nodes_with_gpus_are_pointed_at(
    stages: Write, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stages("a: {run: [x]}\nb: {run: [x]}\nc: {run: [x], gpus: 1}")
    site = "gpus_per_node: 4\nconstraint: a100\nmem: 4G\nsbatch: {exclusive: true}\n"
    for text, wanted in (
        (site, "2 stages without GPUs ask for constraint a100, mem 4G, exclusive; .*profiles: {cpu:"),
        (f"{site}profiles: {{cpu: {{}}}}\n", None),
        ("gpus_per_node: 4\n", None),
        ("mem: 4G\n", None),
    ):
        Path("site.yaml").write_text(text)
        graph = read(file)
        line = capacity.of_gpu_nodes([stage for stage in graph.stages if stage.name != "c"], sites.read("site.yaml"))
        assert (line is None) == (wanted is None)
        if wanted:
            assert launch(file, LINE, cluster="site.yaml", dry_run=True) == 0
            assert re.search(wanted, capsys.readouterr().err)


def test_the_doctor_asks_for_what_a_training_would_ask(slurm: Path, work: Path) -> None:
    from laconvnet.launch.doctor.slurm import cluster

    (work / "site.yaml").write_text("cpus_per_task: 1\nprofiles: {cpu: {partition: short}, gpu: {gpus_per_node: 4}}\n")
    asked = PlannedRun(processes=8, cluster=sites.read("site.yaml"), site=work / "site.yaml")
    assert asked.local == 4
    (found,) = cluster(asked)
    assert (found.state, "2 nodes of 4" in found.found) == ("ok", True)
