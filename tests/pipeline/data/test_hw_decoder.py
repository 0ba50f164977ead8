"""The graph for a GPU as it is described, without one; and the memory format that both graphs end in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali.pipeline import Pipeline

from laconvnet.pipeline.config import dump, load
from laconvnet.pipeline.data import loader as loading
from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs import resumable

CONFIG = DataConfig("unused", size=64, words=6, batch=4, threads=1)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators of every graph that is made, as DALI describes them; none is built."""
    found: list[str] = []

    def describe(pipeline: Any) -> None:
        pipeline._build_graph()
        found.extend(str(operator.spec) for operator in pipeline._ops)

    monkeypatch.setattr(Pipeline, "build", describe)
    return found


def only(found: list[str], operator: str) -> list[str]:
    (spec,) = (spec for spec in found if spec.startswith(f"OpSpec for {operator}:"))
    return [line.strip() for line in spec.splitlines()]


def test_the_graph_for_a_gpu_gets_the_share(described: list[str]) -> None:
    Decoder(4, 1, GPU, hw_decoder_load=0.25)
    decoder, last = only(described, "decoders__Image"), only(described, "CropMirrorNormalize")
    assert "device: mixed" in decoder
    assert "hw_decoder_load: 0.250000" in decoder
    assert "adjust_orientation: False" in decoder
    assert "output_layout: HWC" in last
    assert "device: gpu" in last


def test_the_graph_for_a_cpu_has_no_share(described: list[str]) -> None:
    Decoder(4, 1, CPU, hw_decoder_load=0.25)
    decoder = only(described, "decoders__Image")
    assert "device: cpu" in decoder
    assert not [line for line in decoder if line.startswith("hw_decoder_load")]
    assert "output_layout: HWC" in only(described, "CropMirrorNormalize")


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_loader_hands_the_key_on(share: float, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Made:
        def __init__(self, *arguments: Any) -> None:
            calls.append(arguments)

        def decode(self, *_: Any) -> torch.Tensor:
            return torch.zeros(4, 3, 64, 64)

    monkeypatch.setattr(loading, "Decoder", Made)
    examples = Examples.open(sets["refcoco"], "expression", "train")
    loader = Loader(examples, Vocabulary(()), replace(CONFIG, hw_decoder_load=share), 4, CPU)
    loader.batch(Request(examples.rows[:4]))
    loader.close()
    assert calls == [(4, 1, CPU, False, share)]


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"^data.hw_decoder_load: {share}: expected .*0 to 1$"):
        replace(CONFIG, hw_decoder_load=share)


def test_a_run_may_go_on_with_another_share(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump(load(None, ["--data.folder", "x"])))
    resumable.check(load(None, ["--data.folder", "x", "--data.hw_decoder_load", "1"]), file)


def test_batches_lie_channels_last(sets: dict[str, Path]) -> None:
    """As the network wants them: it would copy others."""
    examples = Examples.open(sets["refcoco"], "expression", "train")
    loader = Loader(examples, Vocabulary(()), CONFIG, 4, CPU)
    rows = examples.rows[:4]
    for flipped in (None, np.array([True, False, True, False])):
        images = loader.batch(Request(rows, None, flipped)).images
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert not images.is_contiguous()
    loader.close()
