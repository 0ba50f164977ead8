"""The kernel library's compiler, cache and fallback; what needs a compiler of CUDA's is skipped where there is none."""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from laconvnet.kernels import cuda, folders, libraries
from laconvnet.kernels.cuda import cache, resources, toolchain
from laconvnet.kernels.cuda import compiler as building
from laconvnet.kernels.cuda.cache import BuildError, Built
from laconvnet.kernels.cuda.toolchain import Nvcc
from tests.kernels import compiled, compilers
from tests.kernels.cuda_emulated import OnCpu

pytestmark = pytest.mark.slow

FAKE = """#!/bin/sh
case "$*" in *--version*) echo "Cuda compilation tools, release 13.0, V{version}"; exit;; esac
echo "$*" >> {folder}/calls
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
sleep 0.02
echo made > "$out"
"""


def fake_nvcc(folder: Path, version: str = "13.0.88") -> Nvcc:
    """A compiler that makes empty files and counts its calls."""
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE.format(version=version, folder=folder))
    path.chmod(0o755)
    return Nvcc(path, version)


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines()) if (folder / "calls").exists() else 0


ONE_BUILD = len(building.units()) + 1  # and the link


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "_outcomes", {})
    monkeypatch.setattr(cuda, "_warned", set())
    monkeypatch.setattr(folders, "_said", set())


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    shutil.copytree(cache.SOURCES, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    """The real library for every architecture: the one long build of these tests."""
    compilers.nvcc()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACONVNET_KERNEL_CACHE", str(compiled.library_cache()))
        yield cuda.build(toolchain.ARCHITECTURES)


def test_every_kernel_keeps_its_numbers_in_registers(built: Built) -> None:
    words = (built.folder / cache.LOG).read_text()
    found = resources.parse(words)
    assert {one.architecture for one in found} == set(toolchain.ARCHITECTURES)
    names = {one.kernel for one in found}
    assert len(found) == 3 * len(names)
    assert {len([name for name in names if kernel in name]) for kernel in ("6gather", "12grad_filters")} != {0}
    spilled = [f"{one}" for one in found if one.spills or one.stack]
    assert not spilled, "\n".join(spilled)
    assert "warning" not in words
    assert any("gather<half, 7, 8" in name for name in resources.readable(sorted(names)) if shutil.which("c++filt"))


def test_the_library_is_small_and_whole(built: Built) -> None:
    assert built.library.stat().st_size <= 3 * 2**20 * len(toolchain.ARCHITECTURES)
    assert sorted(path.name for path in built.folder.iterdir()) == sorted((cache.LIBRARY, cache.LOG, cache.MANIFEST))
    library = ctypes.CDLL(str(built.library))
    assert library.laconv_norm_combine_f32
    for dtype in ("f32", "f16", "bf16", "f64"):
        assert getattr(library, f"laconv_drop_filters_{dtype}")
        assert getattr(library, f"laconv_drop_elements_{dtype}")
        for size in ("any",) if dtype == "f64" else ("any", "k3", "k5", "k7"):
            for what in ("forward", "grad_x", "grad_filters"):
                assert getattr(library, f"laconv_dynamic_conv_{what}_{dtype}_{size}")
        for what in ("statistics", "apply", "backward_reduce", "backward_apply", "workspace"):
            assert dtype == "f64" or getattr(library, f"laconv_norm_{what}_{dtype}")
    for dtype in ("f16", "bf16"):
        for what in ("forward", "grad_x", "grad_filters", "workspace"):
            assert getattr(library, f"laconv_fused_{what}_{dtype}_k3")
            assert getattr(library, f"laconv_fused_{what}_{dtype}_k7")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_launch_without_a_gpu_is_reported(built: Built) -> None:
    library = OnCpu(built.library)
    x, filters = torch.zeros(1, 4, 3, 3), torch.zeros(1, 18, 3, 3)
    with pytest.raises(RuntimeError, match=r"forward_f32_k3 on cpu \(batch 1, height 3.*\): (CUDA driver|no CUDA)"):
        library.dynamic_conv(x, filters, 3, 2, False)
    with pytest.raises(
        RuntimeError, match=r"drop_filters_f32 on cpu \(images 1, .*threshold 128\): (CUDA driver|no CUDA)"
    ):
        library.dropout_(filters, torch.tensor([1]), 3, 2, 0.5)
    with pytest.raises(RuntimeError, match=r"drop_elements_f32 on cpu \(.*threshold 26\): (CUDA driver|no CUDA)"):
        library.dropout(filters, torch.tensor([1]), 0.1)
    with pytest.raises(
        RuntimeError, match=r"laconv_norm_statistics_f32 on cpu \(rows 9, channels 4,.*\): (CUDA driver|no CUDA)"
    ):
        library.norm_statistics(x)


def test_a_broken_source_gives_the_compilers_words(sources: Path) -> None:
    nvcc = compilers.nvcc()
    (sources / "device.cuh").write_text("this is no source;\n")
    with pytest.raises(BuildError, match=r"device\.cuh\(1\): error: .*; all its words: .*failed\.txt") as caught:
        cuda.build(["90a"], nvcc, sources)
    words = Path(str(caught.value).rpartition("all its words: ")[2]).read_text()
    assert "nvcc" in words
    assert words.count("error") > 1
    assert [path.name for path in cache.cache_folder().iterdir() if path.is_dir()] == []
    with pytest.raises(BuildError, match=r"an earlier build failed: .*failed\.txt"):
        cuda.build(["90a"], nvcc, sources)


def test_ptx_is_always_carried() -> None:
    assert building.targets(["80"]) == ["-gencode=arch=compute_80,code=[sm_80,compute_80]"]
    assert building.targets(["90a"]) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=compute_80",
    ]


def test_built_once_and_found_again(tmp_path: Path) -> None:
    nvcc = fake_nvcc(tmp_path)
    first = cuda.build(["90a"], nvcc)
    assert first.codes == ("sm_90a", "compute_80")
    assert first == cuda.build(["90a"], nvcc) == cache.find("90a", cache.source_hash(), nvcc.version)
    assert calls(tmp_path) == ONE_BUILD
    assert cache.find("80", cache.source_hash(), nvcc.version) is None
    several = cuda.build(["100", "80", "100"], nvcc)
    assert several.architectures == ("100", "80")
    assert cache.find("80", cache.source_hash(), nvcc.version) == several
    assert calls(tmp_path) == 2 * ONE_BUILD


def test_another_source_or_compiler_is_another_library(tmp_path: Path, sources: Path) -> None:
    nvcc, newer = fake_nvcc(tmp_path), fake_nvcc(tmp_path / "newer", "13.1.5")
    first = cuda.build(["90a"], nvcc, sources)
    assert cuda.build(["90a"], newer, sources).folder != first.folder
    seen = {first.folder}
    for name in ("gather.cuh", "norm/apply.cuh", "norm/norm.h"):
        with (sources / name).open("a") as file:
            file.write("// another\n")
        seen.add(cuda.build(["90a"], nvcc, sources).folder)
    assert len(seen) == 4
    assert (calls(tmp_path), calls(tmp_path / "newer")) == (4 * ONE_BUILD, ONE_BUILD)
    assert cache.find("90a", first.source, newer.version) != first
    assert cache.find("90a", first.source, None) is not None


def test_sources_in_subfolders_count(sources: Path) -> None:
    hashes = {cache.source_hash(sources)}
    for name, words in (("deep/er/part.cuh", "a"), ("deep/er/part.cuh", "b"), ("deep/part.cuh", "b"), ("part.h", "b")):
        path = sources / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words)
        hashes.add(cache.source_hash(sources))
    (sources / "deep" / "notes.txt").write_text("no source")
    hashes.add(cache.source_hash(sources))
    (sources / "deep" / "part.cuh").rename(sources / "deep" / "er" / "moved.cuh")
    assert cache.source_hash(sources) not in hashes
    assert len(hashes) == 5


def test_the_runtime_beside_a_packages_compiler_is_linked(tmp_path: Path) -> None:
    """nvcc itself looks in lib64, where the package has nothing."""
    nvcc = fake_nvcc(tmp_path / "tools")
    assert nvcc.link_options == ()
    runtime = tmp_path / "tools" / "lib" / "libcudart_static.a"
    runtime.parent.mkdir()
    runtime.touch()
    cuda.build(["90a"], nvcc)
    *compiled, linked = (tmp_path / "tools" / "calls").read_text().splitlines()
    assert f"-L{runtime.parent}" in linked.split()
    assert not any("-L" in line for line in compiled)


def test_a_damaged_library_is_named_and_built_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nvcc = fake_nvcc(tmp_path)
    first = cuda.build(["90a"], nvcc)
    first.library.write_bytes(first.library.read_bytes()[:2])
    capsys.readouterr()
    assert cache.find("90a", first.source, nvcc.version) is None
    assert "2 bytes" in (cache.damage(first.source) or "")
    assert cuda.build(["90a"], nvcc) == first
    assert calls(tmp_path) == 2 * ONE_BUILD
    said = capsys.readouterr().err.splitlines()
    assert f"{first.library}: damaged" in said[0]
    assert "compiling CUDA kernels" in said[1]


def test_an_accident_is_forgotten_and_a_verdict_is_not(tmp_path: Path) -> None:
    nvcc = fake_nvcc(tmp_path)
    working = nvcc.path.read_text()
    nvcc.path.write_text("#!/bin/sh\necho \"nvcc error   : 'ptxas' died due to signal 9\"\nexit 9\n")
    with pytest.raises(BuildError, match="died due to signal 9"):
        cuda.build(["90a"], nvcc)
    assert not list(cache.cache_folder().glob("*.failed.txt"))
    nvcc.path.write_text("#!/bin/sh\necho 'gather.cuh(3): error: no such type'\nexit 2\n")
    with pytest.raises(BuildError, match=r"gather\.cuh\(3\): error: no such type; all its words"):
        cuda.build(["90a"], nvcc)
    nvcc.path.write_text(working)
    with pytest.raises(BuildError, match="an earlier build failed"):
        cuda.build(["90a"], nvcc)
    assert cuda.build(["90a"], nvcc, retry=True).library.exists()
    assert not list(cache.cache_folder().glob("*.failed.txt"))


OTHER = """#!/bin/sh
case "$*" in
  *--version*) echo "Cuda compilation tools, release 11.4, V11.4.48"; exit;;
  *--list-gpu-code*) {listed}; exit;;
  *--help*) {helped}; exit;;
esac
for unknown in {unknown}; do case "$*" in
  *compute_$unknown,*|*compute_$unknown) echo "nvcc fatal   : Unsupported gpu architecture 'compute_$unknown'"; exit 1;;
esac; done
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
echo made > "$out"
"""


@pytest.mark.parametrize(
    ("listed", "unknown", "wanted", "codes"),
    [
        ("75 80 86 87", "90a 100 90", ["90a"], ("compute_87", "compute_80")),
        ("75 80 86 87 90", "90a 100", ["90a"], ("sm_90", "compute_80")),
        ("75 80 86 87 90 90a", "100", ["80", "90a", "100"], ("compute_90", "sm_80", "sm_90a", "compute_80")),
        ("90 90a 100 110", "80", ["90a"], ("sm_90a", "compute_90")),
        ("", "100", ["100"], ("compute_90", "compute_80")),
        ("", "90a 90 89 100", ["90a", "100"], ("compute_87", "compute_80")),
    ],
)
def test_a_compiler_that_does_not_know_a_chip(
    listed: str,
    unknown: str,
    wanted: list[str],
    codes: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "nvcc"
    lines = " ".join(f"sm_{name}" for name in listed.split() if name.isdigit())
    words = {
        "listed": f"echo {lines}" if listed else "exit 1",
        "helped": "echo sm_90a" if "90a" in listed else "exit 1",
    }
    path.write_text(OTHER.format(unknown=unknown, **words))
    path.chmod(0o755)
    nvcc = Nvcc(path, "11.4.48")
    built = cuda.build(wanted, nvcc)
    assert set(built.codes) == set(codes)
    assert built.codes[-1] == codes[-1]
    said = [line for line in capsys.readouterr().err.splitlines() if "does not know" in line]
    assert all(part in said[-1] for part in ("11.4.48", f"compute_{unknown.split()[0]}", *codes))
    for name in wanted:
        assert cache.find(name, built.source, nvcc.version) == built


def test_a_compiler_that_makes_nothing_for_a_chip(tmp_path: Path) -> None:
    path = tmp_path / "nvcc"
    path.write_text(OTHER.format(unknown="80", listed="echo sm_90 sm_100", helped="exit 1"))
    path.chmod(0o755)
    with pytest.raises(BuildError, match=r"nvcc 14\.0\.1 makes no code .*sm_80"):
        cuda.build(["80"], Nvcc(path, "14.0.1"))
    assert not list(cache.cache_folder().glob("*.failed.txt"))


def test_the_real_compiler_tells_what_it_knows() -> None:
    nvcc = compilers.nvcc()
    known = nvcc.architectures()
    assert set(toolchain.ARCHITECTURES) <= known
    assert toolchain.codes(toolchain.ARCHITECTURES, known) == toolchain.codes(toolchain.ARCHITECTURES)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LACONVNET_KERNEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/laconvnet/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/one")
    assert cache.cache_folder() == Path("/home/one/.cache/laconvnet/kernels")


def test_where_the_compiler_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("home", "path", "package")
    home, path, package = (fake_nvcc(tmp_path / name, f"13.0.{i}") for i, name in enumerate(names))

    class File(type(package.path)):  # type: ignore[misc]
        def locate(self) -> Path:
            return self

    monkeypatch.setattr(importlib.metadata, "files", lambda name: [File(package.path)])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path' / 'bin'}:/usr/bin:/bin")
    assert toolchain.find_nvcc() == home
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert toolchain.find_nvcc() == path
    path.path.write_text("#!/bin/sh\nexit 1\n")
    assert toolchain.find_nvcc() == Nvcc(File(package.path), "13.0.2")


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [((7, 5), None), ((8, 0), "80"), ((8, 9), "80"), ((9, 0), "90a"), ((10, 3), "100"), ((12, 0), "80")],
)
def test_what_a_device_wants(capability: tuple[int, int], wanted: str | None) -> None:
    assert toolchain.architecture(capability) == wanted


def test_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = cuda.plan((7, 5)).words()
    assert words.startswith("plain PyTorch, ")
    assert words.endswith("compute capability 7.5 is below 8.0")
    nvcc = fake_nvcc(tmp_path)
    monkeypatch.setattr(cuda, "find_nvcc", lambda: nvcc)
    plan = cuda.plan((9, 0))
    assert plan.fast
    assert "compiled by nvcc 13.0.88 at first use" in plan.words()
    name = cache.key(["90a"], cache.source_hash(), nvcc.version)
    failed = cache.cache_folder() / f"{name}.failed.txt"
    failed.parent.mkdir(mode=0o700)
    failed.write_text("words")
    assert libraries.failure(name) == failed
    plan = cuda.plan((9, 0))
    assert not plan.fast
    assert f"an earlier build failed: {failed}" in plan.words()
    built = cuda.build(["90a"], nvcc, retry=True)
    words = cuda.plan((9, 0)).words()
    assert words.startswith("CUDA kernels, built, checksum ok: ")
    assert all(part in words for part in (str(built.library), "sm_90a", "compute_80", "13.0.88"))
    monkeypatch.setattr(cuda, "find_nvcc", lambda: None)
    assert cuda.plan((9, 0)).built == built  # where it runs, no compiler is needed
    assert "no nvcc to compile the kernels" in cuda.plan((8, 0)).words()
    built.library.write_bytes(b"")
    plan = cuda.plan((9, 0))
    assert (plan.fast, plan.built) == (False, None)
    assert f"{built.library}: damaged: 0 bytes" in plan.words()
    monkeypatch.setattr(cuda, "find_nvcc", lambda: nvcc)
    plan = cuda.plan((9, 0))
    assert (plan.fast, plan.built) == (True, None)
    assert f"{built.library}: damaged: 0 bytes" in plan.words()


def test_a_device_without_kernels_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda.ready(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    with pytest.warns(RuntimeWarning, match=r"cuda:1 runs in plain PyTorch, .*: compute capability 7\.5") as warned:
        found = [cuda.ready(torch.device("cuda", index)) for index in (1, 0, 1)]
    assert found == [None, None, None]
    assert len(warned) == 1
    assert cuda.why_not(torch.device("cuda", 0)) == "compute capability 7.5 is below 8.0"


def test_a_library_that_does_not_load_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_nvcc", lambda: fake_nvcc(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    with pytest.warns(RuntimeWarning, match=r"liblaconv\.so: .*"):
        assert cuda.ready(torch.device("cuda", 0)) is None
    assert calls(tmp_path) == ONE_BUILD


def test_resources_as_the_compiler_says_them() -> None:
    words = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1aPf' for 'sm_90a'
ptxas info    : Function properties for _Z1aPf
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 368 bytes cmem[0]
"""
    assert resources.parse(words + words) == [resources.Resources("_Z1aPf", "90a", 40, 8, 16, 512)]
