"""What a stages file and a cluster's file put into batch scripts ends no line of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from laconvnet.launch.cli import main
from laconvnet.launch.graph import stages
from laconvnet.launch.slurm.cluster import Cluster, read
from laconvnet.pipeline.errors import ConfigError
from tests.messages import tells

BREAKS = ("a\n#SBATCH --uid=0", "a\r#SBATCH --uid=0", "a\x85b", "a\u2028b", "a\x1b[2Jb", "a\x00b", "a\n")
# The keys of a cluster whose values are texts, and how such a text is written there.
TEXTS = {name: lambda text: text for name in (field.name for field in fields(Cluster)) if name not in ("exclude",)}
TEXTS |= {"setup": lambda text: [text], "srun": lambda text: [text], "sbatch": lambda text: {"reservation": text}}


def site(folder: Path, value: object) -> Path:
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=False))
    return file


def graph(folder: Path, **entry: object) -> Path:
    file = folder / "stages.yaml"
    stage = {"run": ["shards", "sources"], **entry}
    file.write_text(yaml.safe_dump({"folder": str(folder / "out"), "stages": {"one": stage}}))
    return file


@pytest.mark.parametrize("text", BREAKS)
@pytest.mark.parametrize("key", sorted(TEXTS))
def test_no_text_of_a_site_ends_a_line(tmp_path: Path, key: str, text: str) -> None:
    file = site(tmp_path, {key: TEXTS[key](text)})
    with pytest.raises(ConfigError) as caught:
        read(file)
    shown = repr(text)[1:-1]
    assert tells(str(caught.value), str(file), "line ", key, shown, "expected")
    assert "\n" not in str(caught.value)


def test_a_key_of_a_site_ends_no_line_either(tmp_path: Path) -> None:
    file = site(tmp_path, {"sbatch": {"nice\n#SBATCH --uid": 1, "hint\n#SBATCH --uid": 1.5}, "x\ny": 1})
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert len(str(caught.value).splitlines()) == 2  # sbatch's values are checked before its keys are
    assert tells(str(caught.value), "'x\\ny'", "hint\\n#SBATCH")


def test_shell_text_of_the_user_stays_as_it_is(tmp_path: Path) -> None:
    lines = ["module load cuda && export A='$(date)'\t# today", "source ~/env.sh; ulimit -n 4096"]
    found = read(site(tmp_path, {"setup": lines, "container": 'bash -c "$X" --', "sbatch": {"comment2": "a 'b' # c"}}))
    assert (list(found.setup), found.container) == (lines, 'bash -c "$X" --')


@pytest.mark.parametrize("text", BREAKS)
def test_no_partition_of_a_stage_ends_a_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = graph(tmp_path, partition=text)
    code = main(["launch", str(file), "--cluster", str(site(tmp_path, {"partition": "cpu"})), "--dry-run"])
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert tells(shown.err, str(file), "line", "'one'", "partition", repr(text)[1:-1], "one line")


def test_nor_one_that_values_put_in(tmp_path: Path) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text("folder: out\nvalues: {where: cpu}\nstages: {one: {run: [a], partition: '{where}'}}\n")
    assert stages.read(file, given={"where": "gpu"}).stages[0].partition == "gpu"
    with pytest.raises(ConfigError, match="partition"):
        stages.read(file, given={"where": "gpu\n#SBATCH --uid=0"})


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", "a\u2028b"])
def test_nor_the_folder_of_the_stages(tmp_path: Path, name: str) -> None:
    file = graph(tmp_path)
    with pytest.raises(ConfigError) as caught:
        stages.read(file, out=tmp_path / name)
    assert tells(str(caught.value), str(file), "--out", repr(name)[1:-1], "expected a path")
    file.write_text(yaml.safe_dump({"folder": name, "stages": {"one": {"run": ["a"]}}}))
    with pytest.raises(ConfigError) as caught:
        stages.read(file)
    assert tells(str(caught.value), str(file), "line 1", "folder", repr(name)[1:-1])
