"""The images that a model is asked about, by names that this server gives them: nothing of a client's is a path."""

from __future__ import annotations

import io
import re
import secrets
from collections import OrderedDict

from PIL import Image

from laconvnet.pipeline.demo.examples import ExamplePictures
from laconvnet.pipeline.inference.pictures import of_bytes

MAX_BYTES = 32 << 20  # of an upload
_SIDE = 1024  # pixels; a larger image is made smaller, for the page and for the network, which sees fewer
_KEPT = 32  # images, the newest; in memory alone
_CRISP_SIDE = 160  # an image up to this is sent without loss, for the page enlarges it
_EXAMPLE = re.compile(r"example-([0-9]{1,9})")


class Pictures:
    """Example images as example-NUMBER, uploaded ones as upload-TOKEN. For one thread."""

    def __init__(self, examples: ExamplePictures | None) -> None:
        self.examples = examples
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()

    def add(self, data: bytes) -> str:
        """The name of an uploaded image, by the bytes of its file; raises ConfigError as `of_bytes`."""
        name = f"upload-{secrets.token_hex(16)}"
        self._keep(name, of_bytes(data, "the upload"))
        return name

    def get(self, name: str) -> Image.Image:
        """The upright RGB image of this name; raises KeyError where there is none, or none any more."""
        if name in self._kept:
            self._kept.move_to_end(name)
        else:
            self._keep(name, self._example(name))
        return self._kept[name]

    def _example(self, name: str) -> Image.Image:
        found = _EXAMPLE.fullmatch(name)
        if self.examples is None or found is None or int(found[1]) >= len(self.examples):
            raise KeyError(name)
        return self.examples.image(int(found[1]))

    def _keep(self, name: str, image: Image.Image) -> None:
        image.thumbnail((_SIDE, _SIDE))
        self._kept[name] = image
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)


def encoded(image: Image.Image) -> tuple[bytes, str]:
    """An image for a browser: its bytes, and their media type."""
    stream = io.BytesIO()
    if max(image.size) <= _CRISP_SIDE:
        image.save(stream, "PNG")
        return stream.getvalue(), "image/png"
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue(), "image/jpeg"
