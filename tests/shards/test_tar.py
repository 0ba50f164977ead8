"""Headers of members, which are what the standard library would write."""

from __future__ import annotations

import tarfile

import pytest

from laconvnet.shards.format.tar import header


def by_tarfile(name: str, length: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = length, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("length", [0, 7, 512, 10**9, 8**11 - 1])
@pytest.mark.parametrize(
    "name", ["a.jpg", "refcoco-1.json", "+" * 100, "z" * 95 + ".json", "é.png", f"{'f' * 60}/{'n' * 60}"]
)
def test_a_header_is_the_one_of_tarfile(name: str, length: int) -> None:
    assert header(name, length) == by_tarfile(name, length)


@pytest.mark.parametrize(("name", "length"), [("n" * 101, 1), ("n", 8**11)])
def test_what_ustar_cannot_hold_is_refused(name: str, length: int) -> None:
    with pytest.raises(ValueError, match=r"too long|overflow"):
        header(name, length)
