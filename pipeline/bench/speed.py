"""Steps of a whole network, the operator's way beside unfold in eager PyTorch.

Nothing but PyTorch is needed: the loop's own cost is measured elsewhere (`pipeline.bench.training`). Images come
through the loader where DALI is installed, else from memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.kernels.bench import Row
from laconvnet.kernels.bench.implementations import BASELINE, unfold_conv
from laconvnet.kernels.bench.run import DTYPES
from laconvnet.kernels.bench.timing import peak_bytes
from laconvnet.pipeline.bench.rows import empty_row, missing, rows_of, surroundings
from laconvnet.pipeline.model import Model, ModelConfig, build_model
from laconvnet.pipeline.model.cost import cost
from laconvnet.pipeline.model.plain_filters import OtherFilters, replace_filters
from laconvnet.pipeline.training import hardware
from laconvnet.pipeline.training.optimizer import OptimizerConfig, build_optimizer

OURS = "laconv"
WORDS = 1000  # of a vocabulary
_AHEAD = 3  # batches that the loader has made while the other way ran
_SIDES = {"small": (96, 64), "large": (640, 480)}  # of images, in pixels


@dataclass(frozen=True)
class Network:
    """What is trained: a model, at ``size`` pixels, in batches; ``threads`` decode."""

    model: ModelConfig = field(default_factory=ModelConfig)
    size: int = 416
    words: int = 15
    batch: int = 32
    precision: str = "bf16"
    threads: int = 4

    @property
    def described(self) -> Row:
        """What a row tells of it."""
        shape = {"size": self.size, "batch": self.batch, "precision": self.precision}
        return {"preset": self.model.preset, **shape}


SMALL = Network(ModelConfig("tiny"), 64, 15, 8, "fp32", 1)  # for a CPU


class Unfolded(OtherFilters):
    """A block's filters, applied as the textbook says."""

    def forward(self, x: Tensor, condition: Tensor, norm: None = None) -> Tensor:
        """The same as `Filters`: x (B, d, H, W), condition (B, c, H, W) or (B, c, 1, 1) -> (B, d, H, W)."""
        inner = self.inner
        filters = F.conv2d(condition, inner.weight[:, :, None, None], inner.bias)
        filters = F.dropout(filters, inner.dropout.p, self.training).expand(-1, -1, *x.shape[2:])
        x = x.to(filters.dtype)
        if not inner.interleaved:
            return unfold_conv(x, filters, inner.kernel_size, inner.groups)
        apart = x.unflatten(1, (-1, inner.groups)).transpose(1, 2).flatten(1, 2)
        out = unfold_conv(apart, filters, inner.kernel_size, inner.groups)
        joined: Tensor = out.unflatten(1, (inner.groups, -1)).transpose(1, 2).flatten(1, 2)
        return joined


def unfolded(model: Model) -> Model:
    """The same model, its filters applied by unfold + einsum."""
    replace_filters(model, Unfolded)
    return model


class Way:
    """A model that is trained, a step at a time: forward, a mean of squares for a loss, backward, clipping, Adam."""

    def __init__(self, network: Network, device: torch.device, reference: bool) -> None:
        torch.manual_seed(0)
        model = build_model(network.model, WORDS)
        model = unfolded(model) if reference else model
        # Tensors without data (`pipeline.bench.moved`) cannot be moved in place, nor need they be.
        self.model = (model if device.type == "cpu" else model.to(device)).train()
        self.device, self.dtype, self.pictures = device, DTYPES[network.precision], network.batch
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = build_optimizer(OptimizerConfig(), self.weights, device)

    def loss(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Of the images (B, 3, S, S) and words (B, L) that there is room for; a scalar."""
        images, tokens = images[: self.pictures], tokens[: self.pictures]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output: Tensor = self.model(images, tokens)
        return output.float().square().mean()

    def step(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Train on images (B, 3, S, S) and words (B, L); the loss, a scalar."""
        loss = self.loss(images, tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, OptimizerConfig.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def fit(self, images: Tensor, tokens: Tensor) -> None:
        """Warm up with as many of the images (B, 3, S, S), with words (B, L), as there is room for.

        Raises OutOfMemoryError where there is none for one.
        """
        while True:
            try:
                self.step(images, tokens)
                return
            except torch.OutOfMemoryError:
                self.optimizer.zero_grad(set_to_none=True)
                if self.pictures == 1:
                    raise
            self.pictures = (self.pictures + 1) // 2
            torch.cuda.empty_cache()


def rows(network: Network, device: torch.device, rounds: int, steps: int, told: Callable[[], object]) -> list[Row]:
    """A row a way; in each round each way takes so many steps. ``told`` is called after each way of each round.

    Rows have the times of a step an image (`rows_of`, baseline unfold in eager PyTorch), and step_ms, images (those
    of a step: unfold may have room for fewer), samples_per_s, data_wait (share of the time), peak_mb (on a GPU, on top
    of what both ways keep), mfu (None where the device's peak is not known) and data (where images come from).
    """
    where = surroundings(device)
    ways = {BASELINE: Way(network, device, True), OURS: Way(network, device, False)}
    notes: dict[str, str] = {}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    peaks: dict[str, float | None] = dict.fromkeys(ways)
    with _batches(network, device) as (batches, data):
        for name, way in ways.items():
            try:
                way.fit(*next(batches))
            except torch.OutOfMemoryError:
                notes[name] = "out of memory"
        for _ in range(rounds):
            for name in (name for name in ways if name not in notes):
                seconds, waited, peaks[name] = _block(ways[name], batches, steps)
                taken[name].append((seconds, waited))
                told()
    described = {"bench": "speed", **network.described, "data": data, **where}
    an_image = {
        name: [1e3 * seconds / steps / ways[name].pictures for seconds, _ in blocks]
        for name, blocks in taken.items()
        if blocks
    }
    baseline = BASELINE if BASELINE in an_image else OURS
    found = rows_of(an_image, baseline, "ms an image") if OURS in an_image else []
    operations = _operations(network)
    for row in found:
        name = row["name"]
        speed, peak = 1e3 / row["median"], hardware.peak(device, network.precision)
        row |= {
            "pictures": ways[name].pictures,
            "step_ms": row["median"] * ways[name].pictures,
            "samples_per_s": speed,
            "data_wait": statistics.median(waited / seconds for seconds, waited in taken[name]),
            "peak_mb": peaks[name],
            "mfu": speed * operations / peak if peak else None,
        }
        if ways[name].pictures < network.batch:
            row["note"] = f"{ways[name].pictures} of {network.batch} images: no room for more"
    found += [empty_row(name, note) for name, note in notes.items()]
    return [{**row, **described} for row in found]


def _block(way: Way, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> tuple[float, float, float | None]:
    """Seconds of so many steps, those of them without data, and the memory that they took at most."""
    for _ in range(_AHEAD):
        next(batches)
    peak = peak_bytes(way.device) if way.device.type == "cuda" else None
    waited, start = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        way.step(*batch)
    taken = peak() / 1e6 if peak else None  # waits for the GPU
    return time.perf_counter() - start, waited, taken


@contextmanager
def _batches(network: Network, device: torch.device) -> Iterator[tuple[Iterator[tuple[Tensor, Tensor]], str]]:
    """Images and words without end, and where they come from."""
    if missing():
        yield repeat(made_input(network, network.batch, device)), f"memory: without {', '.join(missing())}"
        return
    from laconvnet.pipeline.bench.made import images, made_set
    from laconvnet.pipeline.data.examples import Examples
    from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
    from laconvnet.pipeline.data.text import Vocabulary

    width, height = _SIDES["large" if network.size > 96 else "small"]
    with tempfile.TemporaryDirectory() as place:
        made_set(Path(place), images(network.batch, width, height), network.batch, width, height)
        examples = Examples.open(Path(place), "expression", "train")
        config = DataConfig(place, size=network.size, words=network.words, batch=network.batch, threads=network.threads)
        vocabulary = Vocabulary.build(examples.texts(examples.rows), [])
        with (
            closing(Loader(examples, vocabulary, config, network.batch, device)) as loader,
            closing(loader.stream(repeat(Request(examples.rows)))) as stream,
        ):
            made = ((batch.images, batch.tokens) for batch in stream)
            yield made, f"DALI, {'mixed' if device.type == 'cuda' else 'cpu'}, {network.threads} threads"


def made_input(network: Network, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, S, S), channels last, in [0, 1), and words (B, L)."""
    images = torch.rand(batch, 3, network.size, network.size, device=device)
    tokens = torch.randint(2, WORDS, (batch, network.words), device=device)
    return images.contiguous(memory_format=torch.channels_last), tokens


def _operations(network: Network) -> int:
    """Floating-point operations that an example costs: two a multiply-add, forward once, backward twice."""
    with torch.device("meta"):
        model = build_model(network.model, WORDS)
    return 6 * int(cost(model, network.size, network.words)["macs"])
