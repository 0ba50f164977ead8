"""Batch scripts, as they are printed and as they would be submitted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from laconvnet.files import publish_json
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import Stage, plan
from laconvnet.launch.slurm import snapshot
from laconvnet.launch.slurm.cluster import Cluster
from laconvnet.launch.slurm.sbatch import ResourceRequest, array
from laconvnet.pipeline.errors import ConfigError
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
GOLDEN = Path(__file__).parent / "golden"
GRAPH = """
raw: {run: [shards, generate, --out, "{here}/raw"], threads: 2, minutes: 30, partition: cpu}
train: {run: [train, --run, "{here}", --data.folder, "{raw}/raw"], processes: 16, gpus: 1}
eval: {run: [eval, "{train}", --data, "{raw}/raw", --split, val], gpus: 1, nodes: 1, minutes: 0.5}
"""
ARRAY = """
shares: {run: [shards, build, refcoco, --root, "{here}", --out, "{here}/s", --task, "{task}"], array: 64, at_once: 8}
joined: {run: [shards, build, refcoco, --root, "{here}", --out, "{shares}/s"]}
"""
PLAIN = "cpus_per_task: 3\ngpus_per_node: 8\n"
FULL = """
partition: gpu
account: vision
qos: high
constraint: a100&ib
gpus_per_node: 8
gpu_type: a100
cpus_per_task: 8
mem: 400G
minutes: 720
signal_seconds: 300
mail_user: someone@example.org
mail_type: FAIL,END
setup: [module load cuda/12.8, "export WHAT='a b'"]
container: apptainer exec --nv /images/torch.sif
python: /opt/python 3/bin/python
srun: [--cpu-bind=cores]
sbatch: {exclusive: true, reservation: lab}
"""


GRES = """
account: vision
cpus_per_task: 6
profiles:
  cpu: {partition: serial, mem: 16G, cpus_per_task: 2}
  gpu: {partition: accel, gpus_per_node: 4, gpus_by: gres, gpu_type: v100, mem: 180G, sbatch: {exclusive: true}}
sbatch: {gres: "nvme:1"}
"""
GPUS_PER_NODE = """
gpus_per_node: 8
cpus_per_task: 12
mem: 0
constraint: a100
sbatch: {exclusive: true}
profiles:
  cpu: {constraint: milan, mem_per_cpu: 2G}
"""
CONTAINERS = """
gpus_per_node: 8
mem_per_gpu: 60G
container: apptainer exec --nv /images/torch.sif
python: /usr/bin/python3
setup: [module load apptainer]
profiles:
  cpu: {container: apptainer exec /images/cpu.sif, mem: 32G, setup: []}
  gpu: {srun: [--mpi=pmix]}
"""
PARTITIONS = """
partition: batch
account: vision
profiles:
  cpu: {partition: bigmem, mem: 500G, minutes: 60}
  gpu: {partition: a100, gpus_per_node: 8, qos: gpu, mem: 1000G}
  small: {partition: rtx, gpus_per_node: 2, mem: 60G, cpus_per_task: 3}
"""
SMALL = """
raw: {run: [shards, generate, --out, "{here}/raw"]}
train: {run: [train, --run, "{here}", --data.folder, "{raw}/raw"], processes: 16, gpus: 1}
eval:
  run: [eval, "{train}", --data, "{raw}/raw", --split, val]
  gpus: 1
  profile: small
  site: {qos: short, sbatch: {nice: 100, exclusive: true}}
"""


@pytest.mark.parametrize(
    ("name", "graph", "site"),
    [
        ("plain", GRAPH, PLAIN),
        ("full", GRAPH, FULL),
        ("array", ARRAY, PLAIN),
        ("gres", GRAPH, GRES),
        ("gpus-per-node", GRAPH, GPUS_PER_NODE),
        ("containers", GRAPH, CONTAINERS),
        ("partitions", SMALL, PARTITIONS),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_dry_run_prints_the_scripts(
    name: str,
    graph: str,
    site: str,
    stages: Write,
    work: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM is needed to see them
    monkeypatch.setattr(snapshot, "name", lambda: "code-HASH")
    file = stages(graph)
    Path("site.yaml").write_text(site)
    before = sorted(path.name for path in work.iterdir())
    assert launch(file, LINE, cluster="site.yaml", dry_run=True) == 0
    assert sorted(path.name for path in work.iterdir()) == before
    output = capsys.readouterr()
    text = output.out.replace(str(work), "/work").replace(sys.executable, "PYTHON")
    assert text == (GOLDEN / f"{name}.txt").read_text()


def test_two_stages_can_be_seen_alone(stages: Write, capsys: pytest.CaptureFixture[str]) -> None:
    file = stages(GRAPH)
    Path("site.yaml").write_text(PLAIN)
    assert launch(file, LINE, cluster="site.yaml", dry_run=True, only="raw") == 0
    assert capsys.readouterr().out.count("#!/bin/bash") == 1
    with pytest.raises(ConfigError, match=r"'eval' reads .* neither done nor in the queue: raw, tr"):
        launch(file, LINE, cluster="site.yaml", dry_run=True, only="eval")


def test_what_is_wrong_with_stages_and_site_is_told_together(stages: Write) -> None:
    file = stages("a: {run: [x], colour: red}")
    Path("site.yaml").write_text("partiton: gpu\n")
    with pytest.raises(ConfigError) as caught:
        launch(file, LINE, cluster="site.yaml")
    first, second = str(caught.value).splitlines()
    assert "'colour' is unknown" in first
    assert "'partiton' is unknown" in second


def test_the_tasks_of_an_array_as_sbatch_takes_them(stages: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert array(range(64), 8) == "0-63%8"
    assert array([7, 3, 5, 6, 11]) == "3,5-7,11"
    file = stages(ARRAY.replace("at_once: 8", ""))
    (shares, _) = plan(file)
    Path("site.yaml").write_text(PLAIN + "at_once: 20\n")
    for done in (0, 1, 5):
        write_json_at(shares.jobs[done].folder / "DONE.json", {"identity": shares.fingerprint})
    write_json_at(shares.jobs[9].folder / "DONE.json", {"identity": "of other arguments"})
    assert launch(file, LINE, cluster="site.yaml", dry_run=True) == 0
    assert "#SBATCH --array=2-4,6-63%20\n" in capsys.readouterr().out
    assert launch(file, LINE, cluster="site.yaml", dry_run=True, from_="shares") == 0
    assert "#SBATCH --array=0-63%20\n" in capsys.readouterr().out


def write_json_at(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True)
    publish_json(file, value)


def shape(stages: Write, text: str, **site: object) -> ResourceRequest:
    (stage,) = plan(stages(f"a: {{run: [x], {text}}}"))
    return ResourceRequest.of(stage, Cluster(**site))  # type: ignore[arg-type]


def test_shapes(stages: Write) -> None:
    eight = {"gpus_per_node": 8, "partition": "gpu"}
    assert shape(stages, "processes: 16, gpus: 1", **eight) == ResourceRequest("gpu", 2, 8, 4, 8, 1440)
    assert shape(stages, "processes: 4, gpus: 2, threads: 3", **eight) == ResourceRequest("gpu", 1, 4, 3, 8, 1440)
    assert shape(stages, "processes: 4, nodes: 4, gpus: 1, minutes: 0.2", **eight) == ResourceRequest(
        "gpu", 4, 1, 4, 1, 1
    )
    assert shape(stages, "processes: 6, partition: cpu", **eight) == ResourceRequest("cpu", 1, 6, 4, 0, 1440)
    assert shape(stages, "processes: 2", cpus_per_task=7, minutes=90.5) == ResourceRequest(None, 1, 2, 7, 0, 91)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("processes: 3, nodes: 2", ["processes", "3", "2 nodes"]),
        ("processes: 9, gpus: 1", ["processes", "9", "2 nodes"]),
        ("processes: 2, nodes: 1, gpus: 5", ["nodes: got 1", "10 GPUs", "gpus_per_node 8"]),
    ],
)
def test_what_does_not_fit_is_told(stages: Write, text: str, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        shape(stages, text, gpus_per_node=8)
    assert all(part in str(caught.value) for part in parts)


def test_gpus_on_a_cluster_without_any(stages: Write) -> None:
    with pytest.raises(ValueError, match="gpus: got 1, but the cluster's gpus_per_node is 0"):
        shape(stages, "gpus: 1")


def test_configurations_are_copied(stages: Write, work: Path) -> None:
    Path("a.yaml").write_text("seed: 1\n")
    stage: Stage = plan(stages('a: {run: [train, --config, a.yaml, "--config=a.yaml", --config, "{here}/b.yaml"]}'))[0]
    first, second = (stage.folder / "jobs" / f"config-{position}-a.yaml" for position in (2, 3))
    argv = ("train", "--config", str(first), f"--config={second}", "--config", f"{stage.folder}/b.yaml")
    assert snapshot.arguments(stage) == argv
    Path("a.yaml").write_text("seed: 2\n")
    assert first.read_text() == second.read_text() == "seed: 1\n"
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, second.name]


def test_the_copy_of_the_code_is_whole_and_made_once(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = work / "project"
    inside = ("shards/a.py", "launch/deep/b.txt", "launch/__pycache__/x.pyc", "kernels/.hidden", "tests/no.py")
    for file in (*inside, "pipeline/c.py", "configs/d.yaml", "laconvnet/__init__.py", "laconvnet/page.css"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    monkeypatch.setattr(snapshot, "_PLACES", (root / "laconvnet", root))
    copy = snapshot.code(work)
    found = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    names = ("__init__.py", "configs/d.yaml", "launch/deep/b.txt", "page.css", "pipeline/c.py", "shards/a.py")
    assert found == [f"laconvnet/{name}" for name in names]
    assert snapshot.code(work) == copy
    (root / "shards" / "a.py").write_text("other")
    other = snapshot.code(work)
    assert other != copy
    assert (copy / "laconvnet" / "shards" / "a.py").read_text() == "shards/a.py"
    assert sorted(path.name for path in work.glob("*code-*")) == sorted([copy.name, other.name])
