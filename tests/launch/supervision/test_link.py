"""Supervisors find each other, and nobody else is let in."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconvnet.launch.supervision.link import Hub, LinkError, Message, Wire, join, make_secret

SECRET = "a" * 64


def free(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def ports() -> list[int]:
    return free(3)


@pytest.fixture
def hub(ports: list[int]) -> Iterator[Hub]:
    found = Hub("127.0.0.1", ports, SECRET, world=3)
    yield found
    found.close()


def heard(hub: Hub, count: int) -> list[tuple[int, Message | None]]:
    found: list[tuple[int, Message | None]] = []
    until = time.monotonic() + 30
    while len(found) < count and time.monotonic() < until:
        found += hub.receive(0.05)
    return found


def joined(hub: Hub, ports: list[int], rank: int, secret: str = SECRET, seconds: float = 30) -> list[Wire]:
    """The wire of a rank that has come, and none of one that is not let in; the hub listens meanwhile."""
    wires: list[Wire] = []
    thread = threading.Thread(target=lambda: wires.append(join("127.0.0.1", ports, secret, rank, seconds)))
    thread.start()
    while thread.is_alive():
        list(hub.receive(0.02))
    for _ in range(20):
        list(hub.receive(0.02))
    return wires


def test_both_sides_hear_each_other_and_of_the_end(hub: Hub, ports: list[int]) -> None:
    (one,), (two,) = joined(hub, ports, 1), joined(hub, ports, 2)
    assert sorted(hub.wires) == [1, 2]
    two.send({"ready": True})
    one.send({"round": 0})
    one.send({"round": 1})
    assert sorted(heard(hub, 3), key=str) == [(1, {"round": 0}), (1, {"round": 1}), (2, {"ready": True})]
    hub.send({"start": 0})
    assert one.receive() == two.receive() == [{"start": 0}]
    one.close()
    assert heard(hub, 1) == [(1, None)]
    hub.send({"clear": 0})  # whoever is left
    assert two.receive() == [{"clear": 0}]
    hub.close()
    with pytest.raises(LinkError):
        two.receive()


def test_a_stranger_is_not_let_in(hub: Hub, ports: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the stranger's own disappointment
    assert joined(hub, ports, 1, secret="b" * 64, seconds=0.5) == []
    letters = b'{"rank": "\\ud800", "proof": "\\u00e9"}\n', b'{"rank": 1, "proof": "\\ud800"}\n', b"[" * 50_000 + b"\n"
    plain = b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 1}\n', b'{"rank": 1, "proof": 7}\n', b"[1]\n", b"\xff\n"
    for words in (*plain, *letters):
        with socket.create_connection(("127.0.0.1", ports[0])) as stranger:
            stranger.settimeout(5)
            stranger.sendall(words)  # no empty line behind it: that alone would end the connection
            for _ in range(10):
                list(hub.receive(0.02))
            stranger.recv(4096)  # the greeting
            assert stranger.recv(4096) == b""
    assert hub.wires == {}
    (wire,) = joined(hub, ports, 1)  # who belongs here still is
    assert joined(hub, ports, 1, seconds=0.5)  # comes, but the rank is taken: nothing of it is heard
    assert list(hub.wires) == [1]
    wire.send({"ready": True})
    assert heard(hub, 1) == [(1, {"ready": True})]


def test_another_jobs_hub_is_passed_by(ports: list[int]) -> None:
    other = Hub("127.0.0.1", ports, "b" * 64, world=2)
    mine = Hub("127.0.0.1", ports, SECRET, world=2)  # the first port is taken
    threads = threading.Event()

    def listen() -> None:
        while not threads.is_set():
            list(other.receive(0.02))

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        assert joined(mine, ports, 1)
        assert list(mine.wires) == [1]
        assert other.wires == {}
    finally:
        threads.set()
        listening.join()
        other.close()
        mine.close()


def test_what_listens_and_never_speaks_is_given_up(ports: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconvnet.launch.supervision.link._GREET_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", ports[0])), pytest.raises(LinkError, match=r"rank 1 .* 127\.0\.0\.1"):
        join("127.0.0.1", ports, SECRET, 1, seconds=0.3)


def test_a_line_without_an_end_is_not_kept_for_ever(hub: Hub, ports: list[int]) -> None:
    (wire,) = joined(hub, ports, 1)
    sent = threading.Thread(target=lambda: _flood(wire))
    sent.start()
    assert heard(hub, 1) == [(1, None)]
    sent.join()


def _flood(wire: Wire) -> None:
    try:
        wire.socket.sendall(b"x" * (4 << 20))
    except OSError:
        return


def test_the_secret_is_new_each_time_and_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "7.link"
    before = os.umask(0)
    try:
        make_secret(file)
    finally:
        os.umask(before)
    first = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    make_secret(file)
    assert len(first) == len(file.read_text()) == 64
    assert first != file.read_text()
