"""Profiles on a real SLURM: each kind of stage lands on its partition and takes of a node what it asks for."""

from __future__ import annotations

import json
import re

import pytest

from laconvnet.pipeline.errors import ConfigError
from tests.slurm.cluster import CPU_NODE, NODES
from tests.slurm.suite import SITE, Work

PROFILES = """
profiles:
  cpu: {partition: cpu, mem: 1000M}
  gpu: {mem: 8000M, gpus_by: gres, sbatch: {exclusive: true}}
  shared: {mem_per_gpu: 100M}
"""


def test_stages_land_where_their_profiles_say(work: Work) -> None:
    stages = work.stages(
        """
        prepare: {run: [environment, "{here}"]}
        one: {run: [environment, "{here}", "{prepare}"], gpus: 1}
        whole: {run: [environment, "{here}", "{prepare}"], gpus: 2, processes: 2}
        named: {run: [environment, "{here}", "{prepare}"], gpus: 2, profile: shared, site: {sbatch: {nice: 7}}}
        """
    )
    assert work.submit(SITE + PROFILES) == 0
    jobs = {name: work.cluster.call("scontrol", "show", "job", work.job(stage)) for name, stage in stages.items()}

    def told(name: str, key: str) -> str | None:
        found = re.search(rf"\b{key}=(\S+)", jobs[name])
        return found[1] if found else None

    assert [told(name, "Partition") for name in jobs] == ["cpu", "main", "main", "main"]
    assert [told(name, "MinMemoryNode") for name in ("prepare", "one", "whole")] == ["1000M", "2000M", "8000M"]
    assert [told(name, "OverSubscribe") for name in jobs] == ["OK", "OK", "NO", "OK"]
    assert [told(name, "TresPerNode") for name in jobs] == [None, "gres:gpu:1", "gres:gpu:4", "gres:gpu:2"]
    assert told("named", "MemPerTres") == "gres:gpu:100"
    assert told("named", "Nice") == "7"

    assert set(work.ended(*stages.values()).values()) == {("done", None)}
    found = {name: json.loads((stage.folder / "0.json").read_text()) for name, stage in stages.items()}
    assert found["prepare"]["SLURMD_NODENAME"] == CPU_NODE
    assert {found[name]["SLURMD_NODENAME"] for name in ("one", "whole", "named")} <= set(NODES)
    devices = {name: len((one["CUDA_VISIBLE_DEVICES"] or "").split(",")) for name, one in found.items()}
    assert (found["prepare"]["CUDA_VISIBLE_DEVICES"], devices["one"], devices["whole"]) == (None, 1, 4)


def test_limits_of_the_site_are_told_before_anything_is_submitted(work: Work) -> None:
    share = 'run: [share, "{here}", "{task}", x]'
    work.stages(f"a: {{{share}, array: 502}}\nb: {{{share}, array: 6}}")
    with pytest.raises(ConfigError, match=r"^[^\n]*'a': array: got 502, .* 501 \(MaxArraySize\); write array: 501"):
        work.submit()
    limit = ("sacctmgr", "--immediate", "modify", "user", "root", "where", "account=lab", "set")
    work.cluster.call(*limit, "MaxSubmitJobs=5")
    try:
        with pytest.raises(ConfigError, match=r"6 jobs would be submitted .* takes 5 \(MaxSubmitJobs\)"):
            work.submit(only="b")
    finally:
        work.cluster.call(*limit, "MaxSubmitJobs=-1")
    assert work.queue() == []
