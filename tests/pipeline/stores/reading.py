"""Reading by place beside streams, of one set on disk and behind a web server.

    python -m tests.pipeline.stores.reading

prints the table of docs/datasets.md. The server is on this machine: what it costs is its own, not a network's.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from laconvnet.pipeline.bench.data import HEIGHT, WIDTH, reading
from laconvnet.pipeline.bench.made import images, made_set
from tests.pipeline.stores.web import Web

BATCH, SAMPLES, TARS, ROUNDS = 16, 128, 16, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["LACONVNET_SET_CACHE"] = str(place / "cache")
        (place / "served").mkdir()
        folder = made_set(place / "served", images(BATCH, WIDTH, HEIGHT), SAMPLES, WIDTH, HEIGHT, TARS)
        web = Web(place)
        try:
            print("| where | way | ms for an epoch | quartiles | by place / it |\n|---|---|---|---|---|")
            for where, url in (("disk", str(folder)), ("web", f"{web.url}/served")):
                for row in reading(url, BATCH, 2, ROUNDS):
                    numbers = "| {median:.0f} | {q1:.0f} to {q3:.0f} | {ratio:.2f} |".format_map(row)
                    print(f"| {where} | {row['name']} {numbers}", flush=True)
        finally:
            web.shutdown()
            web.server_close()


if __name__ == "__main__":
    main()
