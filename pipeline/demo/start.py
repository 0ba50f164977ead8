"""From what was typed to a page that answers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.demo.app import Demo
from laconvnet.pipeline.demo.asked import AskedModel
from laconvnet.pipeline.demo.examples import ExamplePictures, offered
from laconvnet.pipeline.demo.guard import Guard
from laconvnet.pipeline.demo.pictures import Pictures
from laconvnet.pipeline.demo.server import address, bind, is_loopback, serve
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.errors import InputError
from laconvnet.terminal import complain


def start(
    places: Sequence[Path],
    data: Path | None,
    split: str | None,
    host: str,
    port: int,
    last: bool,
    begun: Callable[[str], None],
) -> None:
    """Serve the page on the models at these places, until SIGINT; ``begun`` is told its address once it answers.

    Raises ConfigError or InputError for an address that is not to be had, a place without a model, and for ``data`` or
    a ``split`` that was named and is not there.
    """
    with bind(host, port) as bound:
        models = [AskedModel(place, last) for place in places]
        for model in models:
            complain(model.model.origin)
        examples, note = _examples(models[0].model.config, data, split)
        if note:
            complain(note)
        local = is_loopback(bound)
        if not local:
            complain(f"--host {host}: whoever reaches this machine can ask the models, without a password")
        names = {host} if local else {host, socket.gethostname(), socket.getfqdn()}
        app = Guard(Demo(models, Pictures(examples), note).app, local, names)
        serve(app, bound, lambda: begun(address(bound)))


def _examples(config: TrainConfig, data: Path | None, split: str | None) -> tuple[ExamplePictures | None, str]:
    """The example images; None, and why, where none were named and the run's set is not here."""
    try:
        return offered(config, data, split), ""
    except (ConfigError, InputError) as error:
        if data or split:
            raise
        return None, f"no example images: {error}; name a set by --data, or upload images"
