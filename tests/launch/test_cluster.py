from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from laconvnet.launch.profile import Profile
from laconvnet.launch.slurm.cluster import Cluster, read
from laconvnet.pipeline.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "cluster" / "example.yaml"


def test_the_example_has_every_key_and_reads() -> None:
    written = yaml.safe_load(EXAMPLE.read_text())
    keys = written.keys() | {key for profile in written["profiles"].values() for key in profile}
    assert keys == {field.name for field in fields(Cluster)}
    site = read(EXAMPLE)
    assert (site.partition, site.minutes, site.setup[0]) == ("gpu", 1440, "module purge")
    assert site.profiles["gpu"] == Profile(
        gpus_per_node=8, gpu_type="a100", gpus_by="gpus-per-node", constraint="a100", mem="400G",
        sbatch={"exclusive": True},
    )  # fmt: skip


def test_what_is_not_written_has_a_default(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("account: 2024\nmem: 0\nminutes: 1.5\npartition:\n")
    assert read(file) == Cluster(account="2024", mem="0", minutes=1.5)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        """
        partiton: gpu
        gpus_per_node: eight
        cpus_per_task: 0
        minutes: -5
        exclude: perhaps
        mem: lots
        account: [a, b]
        setup: module load cuda
        srun: [1, 2]
        sbatch: {output: x, Nice: 1, mail-user: me}
        """
    )
    with pytest.raises(ConfigError) as caught:
        read(file)
    wanted = [
        ("'partiton' is unknown", "partition"),
        ("gpus_per_node", "'eight'", "whole number"),
        ("line 4", "cpus_per_task", "got 0", "more than 0"),
        ("line 5", "minutes", "-5", "more than 0"),
        ("exclude", "'perhaps'", "true or false"),
        ("mem", "'lots'", "64G"),
        ("account", "['a', 'b']", "one line"),
        ("setup", "'module load cuda'", "list of lines"),
        ("line 10", "srun: item 1", "got 1", "text of one line"),
        ("line 10", "srun: item 2", "got 2", "text of one line"),
        ("line 11", "sbatch", "'output'", "laconvnet itself"),
        ("sbatch", "'Nice'", "long name"),
        ("sbatch", "'mail-user'", "mail_user beside"),
    ]
    lines = str(caught.value).splitlines()
    for parts in wanted:
        assert any(all(part in line for part in (str(file), *parts)) for line in lines), parts
    assert len(lines) == len(wanted)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("partition: gpu\nminutes: 12:00:00\n", ["line 2", "minutes", "12:00:00", "720 minutes"]),
        ("partition: gpu\nminutes: '12:00:00'\n", ["line 2", "minutes", "12:00:00", "720 minutes"]),
        ("sbatch:\n  time-min: 1:30:00\n", ["line 2", "sbatch.time-min", "1:30:00", "90 minutes"]),
        ("account: 010\n", ["line 1", "account", "010", "8"]),
        ("partition: gpu\nmem: 1G\npartition: cpu\n", ["line 3", "'partition'", "twice", "line 1"]),
        ("sbatch: {nice: 1.5, hint: [x]}\n", ["sbatch: nice: got 1.5", "sbatch: hint: got a list ['x']", "true"]),
        ("minutes: .inf\nretries: true\nqos: ''\n", ["minutes: got inf", "retries: got True", "qos: got ''"]),
        ('partition: "a\\nb"\n', ["partition", "one line"]),
    ],
)
def test_what_yaml_would_misread_or_a_key_cannot_hold_is_told(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert all(part in str(caught.value) for part in [str(file), *parts])


@pytest.mark.parametrize(
    ("text", "output"),
    [("- a\n", "expected a mapping"), ("a: [", "not valid YAML"), ("!!python/object:os.system {}", "not valid YAML")],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, output: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=output):
        read(file)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"moon: cannot be read .* local, or a file"):
        read("moon")
