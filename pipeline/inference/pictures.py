"""Images as people have them: files, PIL images, arrays and tensors; all become upright RGB images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from laconvnet.images import FORMATS, ImageLimitError, on_white, opened, read_bytes, with_8_bits
from laconvnet.pipeline.errors import ConfigError

AnyImage = str | PathLike[str] | Image.Image | NDArray[np.uint8] | torch.Tensor


def upright(picture: AnyImage) -> Image.Image:
    """The RGB image of a file's path, a PIL image, an array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or of
    floats from 0 to 1. What is transparent is laid on white, and what its EXIF turns is turned, as shards are built.

    Raises ConfigError for what is no such image.
    """
    if isinstance(picture, Image.Image):
        with _refusing("of PIL"):
            return _flat(picture)
    if isinstance(picture, torch.Tensor):
        return _of_tensor(picture)
    if isinstance(picture, np.ndarray):
        return _of_array(picture)
    if not isinstance(picture, str | PathLike):
        kind = type(picture).__name__
        raise ConfigError(f"image: a {kind}; expected a path, a PIL image, an array or a tensor, or a list of these")
    return _of_file(Path(picture))


def _flat(image: Image.Image) -> Image.Image:
    return on_white(with_8_bits(ImageOps.exif_transpose(image))).convert("RGB")


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What is raised while an image is decoded, as a ConfigError by this name."""
    try:
        yield
    except ImageLimitError as error:
        raise _refused(name, error) from error
    except UnidentifiedImageError as error:
        expected = ", ".join(FORMATS)
        raise ConfigError(f"image: {name}: not an image that can be decoded; expected one of {expected}") from error
    except Exception as error:  # decoders raise nearly anything on malformed bytes
        raise ConfigError(f"image: {name}: not an image that can be decoded ({error})") from error


def _of_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ConfigError(f"image: an array {array.shape} of {array.dtype}; expected (height, width, 3) of uint8")
    return Image.fromarray(array)


def _of_tensor(tensor: torch.Tensor) -> Image.Image:
    if tensor.ndim != 3 or len(tensor) != 3 or not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        shape = tuple(tensor.shape)
        raise ConfigError(
            f"image: a tensor {shape} of {tensor.dtype}; expected (3, height, width) of uint8, or of floats from 0 to 1"
        )
    if tensor.is_floating_point():
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):
            raise ConfigError("image: a tensor of floats outside 0 to 1; expected colours that are not normalised")
        tensor = tensor.float().mul(255).round().to(torch.uint8)
    return _of_array(tensor.permute(1, 2, 0).contiguous().cpu().numpy())


def of_bytes(data: bytes, name: str) -> Image.Image:
    """The upright RGB image of an encoded file's bytes; raises ConfigError, by this name, for what is no such image."""
    with _refusing(name), opened(data) as found:
        return _flat(found)


def _of_file(file: Path) -> Image.Image:
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # to read a pipe may take for ever
            raise ConfigError(f"image: {file}: a device or a pipe; expected a file")
        data = read_bytes(file)
    except FileNotFoundError as error:
        raise ConfigError(f"image: {file}: no such file") from error
    except ImageLimitError as error:
        raise _refused(str(file), error) from error
    except OSError as error:
        raise ConfigError(f"image: {file}: not an image that can be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in it
        raise ConfigError(f"image: {str(file)!r}: no name that a file can have ({error})") from error
    return of_bytes(data, str(file))


def _refused(name: str, error: ImageLimitError) -> ConfigError:
    return ConfigError(f"image: {name}: refused: {error}; give a smaller image, or save it again")
