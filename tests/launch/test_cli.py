"""The command line: what it accepts, what it prints where, and with which code it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from laconvnet.launch import cli

COMMANDS = [
    [],
    ["shards"],
    ["shards", "build"],
    ["shards", "check"],
    ["shards", "sources"],
    ["shards", "generate"],
    ["shards", "pretrain-set"],
    ["shards", "verify"],
    ["shards", "info"],
    ["train"],
    ["eval"],
    ["predict"],
    ["compare"],
    ["explain"],
    ["demo"],
    ["report"],
    ["launch"],
    ["status"],
    ["replay"],
    ["export"],
    ["import-released"],
    ["bench"],
    ["bench", "kernel"],
    ["bench", "data"],
    ["bench", "shards"],
    ["bench", "infer"],
    ["bench", "predict"],
    ["bench", "bytes"],
    ["bench", "compare"],
    ["bench", "train"],
    ["bench", "show"],
    ["kernels"],
    ["kernels", "build"],
    ["logs"],
    ["cancel"],
    ["model"],
    ["model", "info"],
    ["doctor"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: {' '.join(['laconvnet', *command])}")
    assert len(output.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shards", "info", "nowhere"], "nowhere"),
        (["shards", "verify", "nowhere", "--full"], "nowhere"),
        (["shards", "build", "imagenet", "--root", ".", "--out", "x"], "refcoco"),
        (["shards", "build", "refcoco", "--root", "nowhere", "--out", "x"], "nowhere"),
        (["shards", "build", "refcoco", "--root", ".", "--out", "x", "--task", "0/4"], "'0/4', expected I/N"),
        (["shards", "build", "refcoco", "--root", ".", "--out", "x", "--task", "x"], "'x', expected I/N"),
        (["shards", "pretrain-set", "--inputs", "a=much", "--out", "x"], "weight 'much'"),
        (["train", "--config", "nowhere.yaml", "--run", "x"], "nowhere.yaml"),
        (["train", "--run", "x", "--data.folder", "nowhere"], "nowhere"),
        (["train", "--run", "x", "--data.fodler", "y"], "fodler"),
        (["train", "--data.folder", "y"], "--run is missing"),
        (["eval", "nowhere", "--data", "x", "--split", "val"], "nowhere: no config.yaml"),
        (["predict", "nowhere", "--image", "x.jpg", "--text", "a cat"], "nowhere: no config.yaml"),
        (["report", "nowhere"], "nowhere"),
        (["launch", "nowhere.yaml"], "nowhere.yaml"),
        (["launch", "nowhere.yaml", "--set", "raw"], "'raw', expected KEY=TEXT"),
        (["status", "nowhere"], "nowhere"),
        (["logs", "nowhere", "train"], "nowhere: no graph.json"),
        (["cancel", "nowhere"], "nowhere: no graph.json"),
        (["model", "info", "--preset", "z"], "'z': expected one of tiny, 10"),
        (["model", "info", "--preset", "s", "--size", "100"], "100"),
        (["status", "nowhere", "--fast"], "'--fast'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("laconvnet: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_argument_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["shards", "build", "refcoco"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("laconvnet shards build: ")
    assert all(part in line for part in ("--root, --out", "`laconvnet shards build --help`"))


def test_model_info_counts_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["model", "info", "--preset", "s", "--task", "rec", "--size", "416"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["macs"] == pytest.approx(8.87e9, rel=0.01)
    assert set(found["parts"]) == {"language", "visual", "head"}
    assert found["params"] == found["params_without_words"] + 10_000 * 300
    assert found["params"] == sum(part["params"] for part in found["parts"].values())
    assert cli.main(arguments) == 0
    assert f"{found['macs']:,}" in capsys.readouterr().out


def test_sources_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shards", "sources", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"refcoco", "refcoco+", "refcocog", "visual_genome", "flickr30k", "clevr"} <= {row["name"] for row in rows}
    assert all(row["licence"] and row["files"] for row in rows)


def test_sources_teach_what_is_expected_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shards", "sources"]) == 0
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("name     table")
    assert shown[at + 1].startswith("title    own data")
    told = [line.split(":")[0] for line in shown[at + 3 :] if line.startswith("  ")]
    assert {"  picture", "  mask", "  question, answer"} <= set(told)


def test_a_printed_configuration_is_one_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--data.folder", "x", "--optimizer.lr", "0.5", "--model.preset", "10"]
    assert cli.main(["train", "--print-config", *keys]) == 0
    first = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(first)
    assert cli.main(["train", "--print-config", "--config", str(tmp_path / "again.yaml")]) == 0
    assert capsys.readouterr().out == first
    assert "lr: 0.5" in first


def test_the_keys_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help-keys"]) == 0
    output = capsys.readouterr().out
    for key in (
        "--data.folder",
        "--model.heads.anchors.sizes",
        "--optimizer.clip",
        "--schedule.drops",
        "--engine.zero",
    ):
        assert key in output


def test_shares_of_a_set_have_the_bytes_of_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    assert cli.main(["shards", "generate", "--out", str(raw), "--pictures", "8", "--json"]) == 0
    build = ["shards", "build", "refcoco", "--root", str(raw / "refer"), "--shard-bytes", "10000", "--json", "--out"]
    assert cli.main([*build, str(tmp_path / "whole")]) == 0
    shared = tmp_path / "shared"
    assert cli.main([*build, str(shared), "--task", "2/2"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"out": str(shared), "task": "2/2"}
    written = {path.name for path in shared.glob("*.tar")}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([*build, str(shared), "--task", "rank"]) == 0
    assert written < {path.name for path in shared.glob("*.tar")}
    assert not (shared / "manifest.parquet").exists()
    assert cli.main([*build, str(shared)]) == 0
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "shared")]
    assert files[0] == files[1]
    assert len(files[0]) > 6


def test_values_of_a_stages_file_are_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stages.yaml"
    run = '[shards, generate, --out, "{raw}", --pictures, "{pictures}"]'
    file.write_text(f"folder: {tmp_path}/out\nvalues: {{raw: x, pictures: 9}}\nstages: {{a: {{run: {run}}}}}\n")
    assert cli.main(["launch", str(file), "--dry-run", "--set", "raw=a b=c", "--set", "pictures=4"]) == 0
    assert "laconvnet shards generate --out 'a b=c' --pictures 4" in capsys.readouterr().out
    assert cli.main(["launch", str(file), "--dry-run", "--set", "rwa=y"]) == 2
    assert re.search("--set rwa: .* expected one of raw, pictures", capsys.readouterr().err)


def test_from_generated_files_to_a_verified_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    assert cli.main(["shards", "generate", "--out", str(raw), "--pictures", "8", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    build = ["shards", "build", "refcoco", "--root", str(raw / "refer"), "--out", str(out), "--json"]
    assert cli.main([*build, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert cli.main(build) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["samples"] == planned["samples"]
    assert built["expressions"] == written["refcoco_expressions"]
    assert set(built["by_split"]) == {"train", "val", "testA", "testB"}
    assert cli.main(["shards", "verify", str(out), "--full"]) == 0
    assert cli.main(["shards", "info", str(out)]) == 0
    assert "testB" in capsys.readouterr().out


@pytest.mark.parametrize("cluster", ["local", "site.yaml"])
@pytest.mark.parametrize(
    ("run", "wrong"),
    [
        ("[nocommand]", "nocommand"),
        ("[shards, build, refcoco, --root, r, --out, o, --workers, many]", "--workers"),
        ("[train, --config, configs/demo/pretrain.yaml, --data.folder, d, --run, r, --nope, 3]", "nope"),
        ("[train, --config, configs/demo/pretrain.yaml, --data.folder, d, --run, r, --data.batch, 7]", "data.batch 7"),
    ],
)
def test_a_plan_is_checked_where_there_are_neither_data_nor_configurations(
    run: str,
    wrong: str,
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such as a laptop with the installed package: its own configurations are found, missing data are told."""
    monkeypatch.chdir(tmp_path)
    Path("site.yaml").write_text("partition: main\n")
    Path("stages.yaml").write_text(f"folder: out\nstages: {{a: {{processes: 2, run: {run}}}}}\n")
    assert cli.main(["launch", "stages.yaml", "--cluster", cluster, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert "stage 'a': " in captured.err
    assert wrong in captured.err
    assert captured.out == ""
    good = "[train, --config, configs/demo/pretrain.yaml, --data.folder, d, --run, r]"
    Path("stages.yaml").write_text(f"folder: out\nstages: {{a: {{processes: 2, run: {good}}}}}\n")
    assert cli.main(["launch", "stages.yaml", "--cluster", cluster, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert "laconvnet train" in captured.out or "#!/bin/bash" in captured.out  # the plan is shown all the same
    assert all("--data.folder d: no such" in line for line in captured.err.splitlines())
    Path("d").mkdir()
    assert cli.main(["launch", "stages.yaml", "--cluster", cluster, "--dry-run"]) == 0
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["launch", "stages.yaml", "--out", "file/x"],
        ["shards", "generate", "--out", "file/x", "--pictures", "2"],
        ["report", ".", "--out", "file/x.html"],
    ],
)
def test_a_place_that_cannot_be_is_one_line_that_names_it(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("stages.yaml").write_text("stages: {a: {run: [doctor]}}\n")
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "file" in line
    assert Path("file").read_text() == ""
