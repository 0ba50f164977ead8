"""`laconvnet model`: costs of presets, of configurations and of the papers' tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from laconvnet.launch import cli

TINY = ["model", "info", "--preset", "tiny", "--size", "64"]


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_layers_add_up_and_are_the_long_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output(capsys, *TINY, "--json"))
    names = [layer["layer"] for layer in found["layers"]]
    for stage in range(5):
        assert f"visual.stages.{stage}.downsample" in names
        assert f"visual.stages.{stage}.blocks.0" in names
    assert {"language.embedding", "language.rnn", "language.attention.0", "head.fusion", "head.predict"} <= set(names)
    for what in ("params", "macs"):
        assert sum(layer[what] for layer in found["layers"]) == found[what]
    table = output(capsys, *TINY, "--layers")
    (block,) = [layer for layer in found["layers"] if layer["layer"] == "visual.stages.4.blocks.0"]
    (line,) = [line for line in table.splitlines() if line.startswith("visual.stages.4.blocks.0")]
    share = [round(100 * block[what] / found[what], 1) for what in ("params", "macs")]
    assert line.split()[1:] == [f"{block['params']:,}", f"{share[0]:g}", f"{block['macs']:,}", f"{share[1]:g}"]
    assert f"{found['params_without_words']:,}" in table
    assert "visual.stages" not in output(capsys, *TINY)


def test_tokens_are_told_and_few_of_them_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "info", "--preset", "s", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["tokens"] == [26, 26, 26, 26, 13]
    assert printed.err == ""
    assert cli.main(TINY) == 0
    printed = capsys.readouterr()
    assert "tokens by stage  4 x 4, 4 x 4, 4 x 4, 4 x 4, 2 x 2" in printed.out
    assert "stage 1 has 4 x 4 tokens at 64 pixels" in printed.err
    assert cli.main([*TINY, "--model.packing=[2,2,1,1,1]"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main([*TINY, "--block", "film"]) == 0
    printed = capsys.readouterr()
    assert "tokens" not in printed.out + printed.err


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output(capsys, *TINY, "--json"))
    assert list(csv.DictReader(io.StringIO(output(capsys, *TINY, "--csv")))) == [
        {"part": name, "params": str(part["params"]), "macs": str(part["macs"])}
        for name, part in found["parts"].items()
    ]
    layers = list(csv.DictReader(io.StringIO(output(capsys, *TINY, "--layers", "--csv"))))
    assert [row["layer"] for row in layers] == [layer["layer"] for layer in found["layers"]]


def test_an_ablation_is_costed_from_keys_and_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = json.loads(output(capsys, *TINY, "--json"))
    small = json.loads(output(capsys, *TINY, "--json", "--model.kernel_size", "3"))
    assert small["macs"] < full["macs"]
    file = tmp_path / "ablation.yaml"
    file.write_text("data: {folder: x, size: 64, words: 15}\nmodel: {preset: tiny, kernel_size: 3}\n")
    assert json.loads(output(capsys, "model", "info", "--config", str(file), "--json")) == small
    # What is typed wins over the file.
    assert (
        json.loads(output(capsys, "model", "info", "--config", str(file), "--json", "--model.kernel_size=null")) == full
    )
    smaller = json.loads(
        output(capsys, "model", "info", "--config", str(file), "--json", "--size", "32", "--words", "4")
    )
    assert smaller["macs"] < small["macs"]
    assert smaller["params"] == small["params"]


def test_the_head_and_the_block_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    def parts(*given: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = json.loads(output(capsys, *TINY, "--json", *given))["parts"]
        return found

    plain, points, film = parts(), parts("--head", "points"), parts("--block", "film")
    assert points["visual"] == plain["visual"]
    assert points["head"] != plain["head"]
    assert film["head"] == plain["head"]
    assert film["visual"] != plain["visual"]
    few, many = (parts("--task", "vqa", "--answers", count)["head"]["params"] for count in ("10", "11"))
    assert many - few == 4 * 128 + 1  # a row of the last layer and its bias


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--task", "chess"], "--task: 'chess': expected one of rec, "),
        (["info", "--head", "hat"], "--head: 'hat': expected one of anchors, "),
        (["info", "--block", "brick"], "--block: 'brick': expected one of laconv, "),
        (["info", "--task", "vqa", "--head", "anchors"], "model.head: expected one of answers for task vqa"),
        (["info", "--vocabulary", "0"], "--vocabulary: 0: expected at least 1"),
        (["info", "--size", "100"], "data.size: 100: expected a multiple of 32"),
        (["info", "--model.kernel_size", "4"], "model.kernel_size: expected an odd positive number, got 4"),
        (["info", "--model.kernel", "4"], "model.kernel: no such key"),
        (["info", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["table", "3"], "table '3': expected one of 1 2 4"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("laconvnet: ")
    assert captured.err.count("\n") == 1


def test_the_papers_tables(capsys: pytest.CaptureFixture[str]) -> None:
    found = [json.loads(line) for line in output(capsys, "model", "table", "7", "12", "--json").splitlines()]
    assert [row["table"] for row in found] == ["7"] * 6 + ["12"]
    assert found[-1]["paper_macs"] == 450_000_000
    assert found[-1]["macs"] == pytest.approx(0.445e9, rel=0.01)
    rows = list(csv.DictReader(io.StringIO(output(capsys, "model", "table", "12", "--csv"))))
    assert [row["params"] for row in rows] == [str(found[-1]["params"])]
    shown = output(capsys, "model", "table", "12")
    assert shown.startswith("Tab. 12 of v2")
    for figure in ("1.4", "0.45", "1.429", f"{found[-1]['macs'] / 1e9:.4g}"):
        assert figure in shown
    assert "trained by configs/finetune/clevr_ref_b.yaml" in shown


@pytest.mark.parametrize("command", ["info", "table"])
def test_the_rule_of_counting_is_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["model", command, "--help"])
    assert "multiply-adds (not twice their number)" in " ".join(capsys.readouterr().out.split())
