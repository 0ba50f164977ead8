"""A trained model, asked from Python."""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from PIL import Image

from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.squares import squares
from laconvnet.pipeline.data.text import Words
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain.explanation import Explanation
from laconvnet.pipeline.explain.recorder import recording
from laconvnet.pipeline.inference import hub
from laconvnet.pipeline.inference.answer import Answer
from laconvnet.pipeline.inference.pictures import AnyImage, upright
from laconvnet.pipeline.inference.restore import Restored, restore, restore_file

Engine = Literal["pillow", "dali"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def load(
    place: str | PathLike[str],
    *,
    last: bool = False,
    device: str | torch.device | None = None,
    resize: Engine = "pillow",
    batch: int = 32,
) -> Predictor:
    """A trained model, ready to be asked.

    Args:
        place: A run's folder, a checkpoint's, or what `laconvnet export` writes as safetensors (a file) or hub (a
            folder).
        last: Of a run the last checkpoint, not the one that its validations call the best.
        device: Such as "cpu" or "cuda:1"; by default the first GPU, if there is one.
        resize: What brings images to the network's size: Pillow, which every machine has, or DALI as in training.
        batch: How many images and texts go through the network at once.

    Raises ConfigError, one line, for a place that holds no trained model, and for a device that is not here.
    """
    where, wanted = Path(place), None if device is None else _device(device)
    file = where if where.is_file() else hub.weights_in(where)
    ready = restore(where, last, wanted) if file is None else restore_file(file, wanted)
    return Predictor(ready, resize, batch)


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch says of a name, and of a GPU that it cannot have
        told = str(error).partition("\n")[0]
        raise ConfigError(f"device: {str(name)!r}: not to be had here ({told}); expected cpu, or cuda:0") from error
    return device


class Predictor:
    """A trained model. Called with an image and a text it gives an `Answer`, with lists a list of them.

    One image goes with every text of a list, one text with every image. Images are files' paths, PIL images, arrays
    (H, W, 3) of uint8 or tensors (3, H, W) of uint8 or of floats from 0 to 1. `task`, `step` and `origin` say what it
    is: what it was trained for, after how many steps, and from where it was loaded; `config` is that of its training,
    `vocabulary` are the words that it has learned.
    """

    def __init__(self, ready: Restored, resize: Engine = "pillow", batch: int = 32) -> None:
        if batch < 1:
            raise ConfigError(f"batch: {batch}: expected at least 1")
        if resize not in ENGINES:
            raise ConfigError(f"resize: {resize!r}: expected one of {', '.join(ENGINES)}")
        self._ready, self._batch = ready, batch
        self._decoder = Decoder(batch, 2, ready.device) if resize == "dali" else None
        self.task, self.step, self.origin = ready.config.model.task, ready.step, ready.origin
        self.config, self.vocabulary = ready.config, ready.vocabulary

    @overload
    def __call__(self, image: AnyImage, text: str) -> Answer: ...
    @overload
    def __call__(self, image: list[Any], text: str | list[str]) -> list[Answer]: ...
    @overload
    def __call__(self, image: AnyImage, text: list[str]) -> list[Answer]: ...
    def __call__(self, image: AnyImage | list[Any], text: str | list[str]) -> Answer | list[Answer]:
        """Raises ConfigError for what is no image, for a text without a word, and for lists of other lengths."""
        several = isinstance(image, list) or isinstance(text, list)
        pictures: list[AnyImage] = image if isinstance(image, list) else [image]
        texts = text if isinstance(text, list) else [text]
        if strange := next((type(one).__name__ for one in texts if not isinstance(one, str)), None):
            raise ConfigError(f"text: a {strange}; expected a str, or a list of them")
        if len(pictures) == 1:
            pictures = pictures * len(texts)
        if len(texts) == 1:
            texts = texts * len(pictures)
        if len(pictures) != len(texts):
            raise ConfigError(f"{len(pictures)} images and {len(texts)} texts; expected as many, or one of either")
        cuts = [slice(first, first + self._batch) for first in range(0, len(texts), self._batch)]
        answers = [answer for cut in cuts for answer in self._of(pictures[cut], texts[cut])]
        return answers if several else answers[0]

    def explain(self, image: AnyImage, text: str) -> Explanation:
        """The answer to one text about one image, and what the network made of its words on the way (v2 Fig. 6, 7).

        An array is (H, W, 3), a tensor (3, H, W), as in a call.
        Raises ConfigError as a call does, and for a model whose blocks weigh no words. One at a time: another thread's
        pass through the same model would be taken for this one's.
        """
        if isinstance(image, list) or not isinstance(text, str):
            raise ConfigError("explain: a list; expected one image and one text")
        with recording(self._ready.model) as recorded:
            answer = self(image, text)
        data = self._ready.config.data
        width, height = answer.image.size
        letterbox = Letterbox.fit(np.array([width]), np.array([height]), data.size)
        words = self.words(text).read
        blocks = tuple(each.block(len(words)) for each in recorded)
        return Explanation(answer, words, blocks, letterbox)

    def _of(self, pictures: Sequence[AnyImage], texts: list[str]) -> list[Answer]:
        opened: dict[int, Image.Image] = {}  # each once, however many texts are about it
        for one in pictures:
            if id(one) not in opened:
                opened[id(one)] = upright(one)
        images = [opened[id(one)] for one in pictures]
        found = self.raw(images, texts)
        return [Answer.of(*each, self.words(each[1])) for each in zip(images, texts, found, strict=True)]

    def words(self, text: str) -> Words:
        """How the model reads a text: which words, which not, and which it does not know."""
        return self._ready.vocabulary.parted(text, self._ready.config.data.words)

    def refuses(self, text: str) -> str | None:
        """Why a text cannot be asked, in one line; None where it can."""
        try:
            self._ready.vocabulary.encode([text], 1)
        except ConfigError as error:
            return str(error)
        return None

    def raw(self, images: Sequence[Image.Image], texts: list[str]) -> list[dict[str, Any]]:
        """What the task answers to each text about its upright RGB image, as `laconvnet eval` writes it."""
        return self.answers(self.prepare(images, texts))

    def prepare(self, images: Sequence[Image.Image], texts: list[str]) -> Batch:
        """The batch of texts, each about its upright RGB image. Raises ConfigError for a text without a word."""
        ready, config = self._ready, self._ready.config.data
        sides = np.array([image.size for image in images])
        letterbox = Letterbox.fit(sides[:, 0], sides[:, 1], config.size)
        tokens = torch.from_numpy(ready.vocabulary.encode(texts, config.words)).to(ready.device)
        shown = self._squares(images, letterbox).to(ready.device, memory_format=torch.channels_last)
        nothing = torch.empty(0)
        return Batch(np.zeros(len(texts), np.int64), shown, tokens, nothing, nothing, letterbox)

    @torch.inference_mode()
    def answers(self, batch: Batch) -> list[dict[str, Any]]:
        """What the task answers to a batch of `prepare`."""
        return self._ready.task.answer(self._ready.model(batch.images, batch.tokens).float(), batch)

    def _squares(self, images: Sequence[Image.Image], letterbox: Letterbox) -> torch.Tensor:
        if self._decoder is None:
            return squares(images, letterbox)
        return self._decoder.decode([_lossless(image) for image in images], letterbox)


def _lossless(image: Image.Image) -> Any:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return np.frombuffer(stream.getvalue(), np.uint8)
