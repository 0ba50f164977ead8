"""The user's own folders: where caches are, and whether anybody else but root can have written a file or folder.

This module knows the standard library only.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def distrusted(path: Path) -> str | None:
    """Why nothing is taken from this file or folder; None where it can be trusted.

    A link must be trusted as well as what it leads to. Raises OSError where there is nothing, or it cannot be seen.
    """
    link, found = path.lstat(), path.stat()
    for owner in (link.st_uid, found.st_uid):
        if owner not in (os.geteuid(), 0):
            return f"{path}: belongs to another user (uid {owner})"
    if found.st_mode & OTHERS_MAY_WRITE:
        return f"{path}: its group or others can write it (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def user_cache(variable: str, name: str) -> Path:
    """The folder that an environment variable names, else ``name`` in the user's cache folder by the XDG rule.

    Raises RuntimeError where there is no home: a container's user may have no entry in /etc/passwd.
    """
    if os.environ.get(variable):
        return Path(os.environ[variable])
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "laconvnet", name)
