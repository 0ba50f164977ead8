"""The server of the page, without a browser: what it answers, what it refuses, and how."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import webbrowser
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

import laconvnet
from laconvnet.launch import cli
from laconvnet.pipeline.demo.app import MAX_TEXT
from laconvnet.pipeline.demo.asked import AskedModel
from laconvnet.pipeline.demo.pictures import MAX_BYTES, Pictures
from laconvnet.pipeline.demo.server import address, bind
from laconvnet.shards.format.manifest import Manifest
from tests.pipeline.demo.conftest import Server
from tests.without import without

TEXT = "the Red circle, on the left"
ORDER = ("rec", "res", "vqa", "film")


@pytest.fixture(scope="module")
def server(models: dict[str, Path], serving: Callable[..., Any]) -> Iterator[Server]:
    with serving(*(models[name] for name in ORDER)) as begun:
        yield begun


@pytest.fixture(scope="module")
def example(server: Server) -> Image.Image:
    """The first example image, as the server shows it."""
    return Image.open(io.BytesIO(server.get("/pictures/example-0"))).convert("RGB")


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(uri: str) -> np.ndarray[Any, Any]:
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def uploaded(server: Server, data: bytes) -> str:
    status, found, _ = server.send("POST", "/pictures", data)
    assert status == 201, found
    return str(found["picture"])


def test_it_tells_what_it_has(server: Server, models: dict[str, Path]) -> None:
    about = server.get("/about")
    assert [run["name"] for run in about["runs"]] == [models[name].name for name in ORDER]
    assert [(run["task"], run["step"], run["words"]) for run in about["runs"]][1] == ("res", 7, 12)
    assert about["examples"]["set"] == "refcoco"
    assert about["examples"]["split"] == "val"
    assert [bool(run["unexplained"]) for run in about["runs"]] == [False, False, False, True]


def test_examples_are_those_of_the_split(server: Server, sets: dict[str, Path]) -> None:
    manifest, count = Manifest.open(sets["refcoco"]), server.get("/about")["examples"]["number"]
    texts: dict[int, list[str]] = {}
    for row in manifest.select("val", "expression").tolist():
        texts.setdefault(manifest.example(row, "sample"), []).append(manifest.example(row, "text"))
    assert count == len(texts)
    samples = sorted(texts)
    shown = server.get("/examples?first=1")
    assert [one["picture"] for one in shown][:2] == ["example-1", "example-2"]
    for one, sample in zip(shown, samples[1:], strict=False):
        assert one["texts"] == list(dict.fromkeys(texts[sample]))[:5]
    found = Image.open(io.BytesIO(server.get("/pictures/example-1"))).convert("RGB")
    stored = Image.open(io.BytesIO(manifest.read_image(samples[1]))).convert("RGB")
    assert np.array_equal(np.asarray(found), np.asarray(stored))
    for wrong in (str(count), "-1", "x", "\N{SUPERSCRIPT TWO}".encode().hex(), "9" * 5000):
        assert "no example image" in server.refusal(404, f"/examples?first={wrong}")


def test_each_model_answers_as_it_does_from_python(
    server: Server, models: dict[str, Path], example: Image.Image
) -> None:
    for run, name in enumerate(ORDER):
        expected = laconvnet.load(models[name], device="cpu")(example, TEXT)
        found = server.ask(run=run, picture="example-0", text=TEXT)
        assert found["box"] == (None if expected.box is None else pytest.approx(expected.box, abs=1e-3))
        assert found["answer"] == expected.answer
        assert found["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
        assert found["milliseconds"] > 0
        assert (found["mask"] is None) == (expected.mask is None)
        if expected.mask is not None:
            assert found["share"] == pytest.approx(expected.mask.mean(), abs=0.01)
            assert np.array_equal(pixels(found["mask"])[..., 3] > 0, expected.mask)


def test_words_are_told_as_they_are_read(server: Server) -> None:
    words = server.ask(run=0, picture="example-0", text="The red-brown Zyzzyva" + 10 * " left")["words"]
    assert [word["word"] for word in words][:4] == ["the", "red", "brown", "zyzzyva"]
    assert [word["known"] for word in words][:4] == [True, True, False, False]
    assert [word["read"] for word in words] == [True] * 12 + [False] * 2


def test_maps_are_those_of_the_explanation(server: Server, models: dict[str, Path], example: Image.Image) -> None:
    explanation = laconvnet.load(models["rec"], device="cpu").explain(example, TEXT)
    found = server.ask("/maps", run=0, picture="example-0", text=TEXT, word=1)
    assert [one["stage"] for one in found] == [None, *explanation.stages]
    for one in found:
        weights = explanation.over(1, one["stage"])
        assert (one["least"], one["most"]) == pytest.approx((weights.min(), weights.max()), rel=1e-3)
        grey, opacity = np.moveaxis(pixels(one["map"]).astype(float), 2, 0)
        assert not grey.any()
        assert np.abs(opacity - 255 * 0.85 * (1 - weights / weights.max())).max() < 2
    question = {"run": 0, "picture": "example-0", "text": TEXT, "word": 6}
    assert "word 6" in server.refusal(422, "/maps", json.dumps(question).encode())
    assert "film" in server.refusal(422, "/maps", json.dumps({**question, "run": 3, "word": 0}).encode())


def test_words_of_the_vocabulary_come_by_their_begin(server: Server) -> None:
    assert server.get("/vocabulary?begin=R") == ["red", "round", "right"]
    assert server.get("/vocabulary?begin=zz") == []
    assert len(server.get("/vocabulary")) == 8
    assert "at most" in server.refusal(422, f"/vocabulary?begin={'x' * (MAX_TEXT + 1)}")


def test_an_upload_is_shown_as_the_models_see_it(server: Server) -> None:
    turned = Image.new("RGB", (40, 20), "red")
    facts = Image.Exif()
    facts[0x0112] = 6  # a quarter turn
    stream = io.BytesIO()
    turned.save(stream, "TIFF", exif=facts)
    name = uploaded(server, stream.getvalue())
    assert Image.open(io.BytesIO(server.get(f"/pictures/{name}"))).size == (20, 40)
    large = uploaded(server, png(Image.new("RGB", (3000, 1500))))
    assert Image.open(io.BytesIO(server.get(f"/pictures/{large}"))).size == (1024, 512)
    x1, y1, x2, y2 = server.ask(run=0, picture=name, text=TEXT)["box"]
    assert 0 <= x1 <= x2 <= 20
    assert 0 <= y1 <= y2 <= 40


def bomb(width: int, height: int) -> bytes:
    """A PNG that says that it has so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, b"IEND")
    )


def test_what_is_no_image_or_too_large_is_refused(server: Server) -> None:
    whole = png(Image.effect_noise((64, 64), 50))
    for broken in (b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", whole[: len(whole) // 2]):
        assert "not an image that can be decoded" in server.refusal(415, "/pictures", broken)
    for size in ((20_000, 20_000), (10_000, 9_500)):
        assert "bomb" in server.refusal(413, "/pictures", bomb(*size))
    assert f"{MAX_BYTES:,}" in server.refusal(413, "/pictures", bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"text": "?!"}, 422, "holds no word"),
        ({"text": ""}, 422, "holds no word"),
        ({"text": "x" * (MAX_TEXT + 1)}, 422, f"at most {MAX_TEXT}"),
        ({"text": "x" * 20_000}, 413, "more than"),
        ({"text": 3}, 422, "text: "),
        ({"text": None}, 422, "text: "),
        ({"run": 4}, 404, "there are 4"),
        ({"run": -1}, 422, "run: "),
        ({"run": "0"}, 422, "run: "),
        ({"other": 1}, 422, "other: "),
        ({"picture": "../../etc/passwd"}, 404, "picture: "),
        ({"picture": "/etc/passwd"}, 404, "picture: "),
        ({"picture": "example-999999999"}, 404, "picture: "),
        ({"picture": "example-\u0661"}, 404, "picture: "),
        ({"picture": "example-0\n"}, 404, "picture: "),
        ({"picture": "upload-0"}, 404, "picture: "),
    ],
)
def test_a_wrong_question_is_refused_in_a_line(server: Server, change: dict[str, Any], status: int, told: str) -> None:
    question = {"run": 0, "picture": "example-0", "text": TEXT, **change}
    assert told in server.refusal(status, "/answer", json.dumps(question).encode())


def test_what_is_no_question_is_refused_in_a_line(server: Server) -> None:
    for broken in (b"", b"{", b"\xff", b'{"text": "\\ud800", "run": 0, "picture": "example-0"}', b"[" * 10_000):
        assert "JSON" in server.refusal(400, "/answer", broken)
    assert "text: " in server.refusal(422, "/answer", b'{"run": 0, "picture": "example-0"}')
    server.refusal(422, "/answer", b"[]")
    server.refusal(404, "/nothing")
    server.refusal(404, "/pictures/..%2f..%2fsetup.cfg")
    server.refusal(404, "/demo.css/../../../../etc/passwd")
    server.refusal(405, "/answer")
    server.refusal(405, "/", b"x")


def test_other_sites_are_refused(server: Server) -> None:
    port = server.host.partition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "", "[", "localhost."):
        assert "not a name of this server" in server.refusal(421, "/", None, Host=host)
    for host in (f"localhost:{port}", "LOCALHOST", "[::1]:9", "127.0.0.1:9999"):
        assert server.send("GET", "/about", Host=host)[0] == 200
    question = json.dumps({"run": 0, "picture": "example-0", "text": TEXT}).encode()
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1"):
        assert "another site" in server.refusal(403, "/answer", question, Origin=origin)
        assert "another site" in server.refusal(403, "/pictures", b"x", Origin=origin)
    assert server.send("POST", "/answer", question, Origin=server.address.rstrip("/"))[0] == 200


def test_every_answer_says_what_a_browser_may_do_with_it(server: Server) -> None:
    for path in ("/", "/demo.js", "/demo.css", "/about", "/pictures/example-0", "/nothing"):
        _, _, headers = server.send("GET", path)
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    _, _, refused = server.send("GET", "/", Host="evil.example")
    assert "content-security-policy" in refused


def test_the_page_names_nothing_of_another_host() -> None:
    folder = laconvnet.ROOT / "pipeline" / "demo"
    for file in (*folder.glob("*.html"), *folder.glob("*.js"), *folder.glob("*.css")):
        text = file.read_text()
        assert "//" not in text.replace("// ", ""), file
        assert not [
            word for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "document.write") if word in text
        ]


def test_who_has_gone_away_is_not_answered(models: dict[str, Path]) -> None:
    """And the newest answer is kept, so that asking it again takes no pass."""
    model, image = AskedModel(models["rec"]), Image.new("RGB", (64, 64))

    def request(gone: bool) -> Request:
        async def receive() -> Message:
            return {"type": "http.disconnect"} if gone else await asyncio.Future()

        return Request({"type": "http"}, receive)

    async def asked() -> list[Any]:
        texts = {"red": False, "green": True, "blue": False}
        waiting = [model.ask(request(gone), "upload-0", image, text) for text, gone in texts.items()]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        return [*found, await model.ask(request(True), "upload-0", image, "blue")]

    red, green, blue, again = asyncio.run(asked())
    assert (red.answer.text, blue.answer.text, again.answer.text) == ("red", "blue", "blue")
    assert isinstance(green, HTTPException)
    assert (blue.seconds > 0, again.seconds) == (True, 0)
    assert again.answer is blue.answer


def test_the_newest_images_are_kept(sets: dict[str, Path]) -> None:
    pictures = Pictures(None)
    names = [pictures.add(png(Image.new("RGB", (4, 4), (number, 0, 0)))) for number in range(32)]
    assert pictures.get(names[0]).getpixel((0, 0)) == (0, 0, 0)  # used again, so younger than the second
    names.append(pictures.add(png(Image.new("RGB", (4, 4)))))
    with pytest.raises(KeyError):
        pictures.get(names[1])
    assert pictures.get(names[0])
    with pytest.raises(KeyError):
        pictures.get("example-0")


def test_a_mistake_is_one_line_before_anything_is_loaded(
    models: dict[str, Path], sets: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with bind("127.0.0.1", 0) as busy:
        port = str(busy.getsockname()[1])
        wrong = [
            ([tmp_path / "none", "--port", port], rf"--port {port}: Address already in use"),
            ([models["rec"], "--host", "no.such.name.invalid"], "--host: 'no.such.name.invalid'"),
            ([models["rec"], "--port", "70000"], "--port"),
            ([tmp_path, "--port", "0"], "no config.yaml"),
            ([models["rec"], "--port", "0", "--data", tmp_path], "no manifest.parquet"),
            ([models["rec"], "--port", "0", "--data", sets["refcoco"], "--split", "no"], "split 'no'"),
        ]
        for arguments, told in wrong:
            assert cli.main(["demo", *map(str, arguments)]) == 2
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert error.startswith("laconvnet: ")
            assert told in error


def moved(file: Path, to: Path) -> Path:
    """A copy of an exported file whose run was trained on a set that is not here."""
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    facts["config"] = facts["config"].replace("refcoco", "nowhere")
    save_file(load_file(file), to, facts)
    return to


def test_without_its_set_only_uploads_are_asked_about(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a server for other machines, which says so, is known by its addresses and names."""
    program = tmp_path / "browser.sh"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    program.chmod(0o755)
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # what BROWSER names is looked at once a process
    monkeypatch.setenv("BROWSER", str(program))
    with bind("127.0.0.1", 0) as free:
        port = str(free.getsockname()[1])
    server, found, ended = Server(f"http://127.0.0.1:{port}/"), [], threading.Event()

    def use() -> None:
        try:
            server.reached()
            found.append(server.get("/about"))
            for host in ("10.1.2.3:80", socket.gethostname().upper(), "[::1]"):
                assert server.send("GET", "/about", Host=host)[0] == 200
            server.refusal(421, "/about", None, Host="evil.example")
            server.refusal(404, "/examples")
            name = uploaded(server, png(Image.new("RGB", (30, 20))))
            found.append(server.ask(run=0, picture=name, text=TEXT)["box"])
        finally:
            if not ended.is_set():
                signal.raise_signal(signal.SIGINT)

    with ThreadPoolExecutor(1) as browser:
        used = browser.submit(use)
        arguments = [
            moved(models["rec"], tmp_path / "moved.safetensors"),
            "--host",
            "0.0.0.0",
            "--port",
            port,
            "--json",
            "--open",
        ]
        code = cli.main(["demo", *map(str, arguments)])
        ended.set()
        used.result()
    assert code == 0
    about, box = found
    assert about["examples"] is None
    assert "name a set by --data" in about["note"]
    assert len(box) == 4
    output = capsys.readouterr()
    page = f"http://{socket.gethostname()}:{port}/"
    assert json.loads(output.out) == {"page": page}
    assert (tmp_path / "opened").read_text() == page
    assert about["note"] in output.err
    assert "--host 0.0.0.0: whoever reaches this machine can ask" in output.err


def test_addresses_are_written_as_browsers_read_them() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert address(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}/"
    with bind("0.0.0.0", 0) as bound:
        assert address(bound).startswith(f"http://{socket.gethostname()}:")
    with bind("::1", 0) as bound:
        assert address(bound).startswith("http://[::1]:")


def test_a_lacking_package_is_named_with_the_extra() -> None:
    for package in ("starlette", "uvicorn"):
        code = f"{without(package)}\nfrom laconvnet.launch import cli\nsys.exit(cli.main(['demo', 'run']))"
        done = subprocess.run([sys.executable, "-c", code], cwd=laconvnet.ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"demo: {package} is not installed; pip install 'laconvnet[demo]'" in done.stderr
