"""The other process of the checks of a file system: it does what a line on its standard input says.

    lock FILE      tries to take the lock at once: "taken" or "refused"
    create FILE    creates the file exclusively: "created" or "exists"
    watch FILE     reads it until FILE.stop is there; how often, how often it was missing, how often not whole, the last
    look FOLDER    the names in it

Run by its path, so that it starts in the time of a bare interpreter.
"""

from __future__ import annotations

import fcntl
import os
import sys


def main() -> None:
    for line in sys.stdin:
        what, _, path = line.rstrip("\n").partition(" ")
        print({"lock": lock, "create": create, "watch": watch, "look": look}[what](path), flush=True)


def lock(path: str) -> str:
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "refused"
    return "taken"


def create(path: str) -> str:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return "exists"
    return "created"


def watch(path: str) -> str:
    reads = missing = torn = 0
    last = ""
    print("watching", flush=True)
    while True:
        over = os.path.exists(f"{path}.stop")  # looked for first: what is read after it is the end
        try:
            with open(path) as stream:
                last = stream.read()
            torn += len(last) != 4096 or len(set(last)) != 1
        except FileNotFoundError:
            missing += 1
        reads += 1
        if over:
            return f"{reads} {missing} {torn} {last[:1]}"


def look(path: str) -> str:
    return " ".join(sorted(os.listdir(path)))


if __name__ == "__main__":
    main()
