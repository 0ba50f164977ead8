"""Reading by place beside streams, of one set on disk, behind a web server and in an S3 store.

    python -m tests.pipeline.stores.reading

prints the table of docs/datasets.md. Server and store are on this machine: what they cost is theirs, not a network's.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import s3fs

from laconvnet.pipeline.bench.data import HEIGHT, WIDTH, reading
from laconvnet.pipeline.bench.made import images, made_set
from tests.pipeline.stores.store import Swift
from tests.pipeline.stores.web import Web

BATCH, SAMPLES, TARS, ROUNDS = 16, 256, 16, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["LACONVNET_SET_CACHE"] = str(place / "cache")
        (place / "served").mkdir()
        folder = made_set(place / "served", images(BATCH, WIDTH, HEIGHT), SAMPLES, WIDTH, HEIGHT, TARS)
        web, swift = Web(place), Swift(place / "swift")
        try:
            os.environ.update(swift.variables)
            store = s3fs.S3FileSystem()
            store.mkdir("bench")
            store.put(str(folder), "bench/set", recursive=True)
            print("| where | way | ms for an epoch | quartiles | by place / it |\n|---|---|---|---|---|")
            for where, url in (("disk", str(folder)), ("web", f"{web.url}/served"), ("S3", "s3://bench/set")):
                for row in reading(url, BATCH, 2, ROUNDS):
                    numbers = "| {median:.0f} | {q1:.0f} to {q3:.0f} | {ratio:.2f} |".format_map(row)
                    print(f"| {where} | {row['name']} {numbers}", flush=True)
        finally:
            swift.close()
            web.shutdown()
            web.server_close()


if __name__ == "__main__":
    main()
