"""Where compiled libraries are kept: only in folders that nobody but this user, or root, can have written.

A library is code that runs with this user's rights, so a folder or file is believed by its owner and its permissions.
Where the cache is another user's, open to others or not to be written, a private folder takes its place.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from laconvnet.terminal import complain
from laconvnet.trust import distrusted, user_cache

_said: set[str] = set()


def say(line: str) -> None:
    """One line on standard error, once a process: where a library comes from is no matter to be silent about."""
    if line not in _said:
        _said.add(line)
        complain(f"laconvnet: {line}")


def cache_folder() -> Path:
    """LACONVNET_KERNEL_CACHE, else the user's cache folder by the XDG rule."""
    try:
        return user_cache("LACONVNET_KERNEL_CACHE", "kernels")
    except RuntimeError:
        return _in_temporary()


def private_folders() -> list[Path]:
    """What takes the cache's place where it cannot be used: a folder in it, else one in the temporary folder."""
    found = [cache_folder() / _private()]
    with suppress(OSError):  # there is none that can be written
        found.append(_in_temporary())
    return found


def _in_temporary() -> Path:
    return Path(tempfile.gettempdir()) / _private()


def _private() -> str:
    return f"laconvnet-kernels-{os.geteuid()}"


def readable() -> list[Path]:
    """The folders that may hold libraries, as far as they are there and can be trusted; says why one cannot."""
    found = []
    for place in (cache_folder(), *private_folders()):
        with suppress(OSError):  # not there, or not to be looked into
            if why := distrusted(place):
                say(f"{why}: no kernels are loaded from it")
            else:
                found.append(place)
    return found


def writable() -> Iterator[Path]:
    """The folders to build into, the best first, each made if need be; says where it goes if not into the cache.

    The last is new and goes when the process ends. Raises OSError where not even that can be made.
    """
    refused = _refused(cache_folder())
    if refused is None:
        yield cache_folder()
        refused = f"{cache_folder()}: the kernels could not be built in it"
    for place in private_folders():
        if _refused(place) is None:
            say(f"{refused}; compiled kernels are kept in {place}")
            yield place
    place = _of_this_process()
    say(f"{refused}; compiled kernels are kept in {place} until this process ends")
    yield place


def _refused(place: Path) -> str | None:
    """Why this folder cannot be built into; makes it where it is not there."""
    try:
        # The folders above are anybody's choice; the last is where the rights matter, whatever the umask says.
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        if why := distrusted(place):
            return why
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(b"0")
    except FileExistsError as error:
        return f"{place}: {error.filename} is no folder"
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return None


@functools.cache
def _of_this_process() -> Path:
    place = Path(tempfile.mkdtemp(prefix="laconvnet-kernels-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
