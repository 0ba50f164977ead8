"""Stores that sets lie in, and a cache for their tables that no other test sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.stores.store import Swift, Unavailable
from tests.pipeline.stores.web import Web


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    try:
        store = Swift(tmp_path_factory.mktemp("swift") / "store")
    except Unavailable as error:
        pytest.skip(str(error))
    yield store
    store.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("LACONVNET_SET_CACHE", str(place))
    return place


@pytest.fixture
def bucket(swift: Swift, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of a new bucket."""
    import s3fs

    for name, value in swift.variables.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.nodeid)) % 10**9}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = Web(folder)
    yield server
    server.shutdown()
    server.server_close()
