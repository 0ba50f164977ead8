"""A loaded library is tried before it is given work: what a driver or a chip refuses shows at once, with its reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from laconvnet.kernels import backend, cuda, folders, plain, probe
from laconvnet.kernels.cuda import cache
from tests.kernels import compilers
from tests.kernels.cuda_emulated import OnCpu
from tests.kernels.test_cuda_build import fake_nvcc

GPU = torch.device("cuda", 0)
# The C interface with a launch that answers with a code of CUDA's, or writes numbers.
SOURCE = """
#include "laconv.h"
extern "C" const char* laconv_words(int code) {{
  return code == 222 ? "the provided PTX was compiled with an unsupported toolchain." : "CUDA driver too old";
}}
extern "C" int laconv_dynamic_conv_forward_f32_k3(const laconv_conv_args* args, void*) {{
  if ({code} == 0)
    for (int i = 0; i < args->batch * args->height * args->width * args->channels; i++) ((float*)args->result)[i] = 1;
  return {code};
}}
"""


@pytest.fixture(autouse=True)
def _pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose memory is the CPU's, an empty cache and a compiler that makes no library."""
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "_outcomes", {})
    monkeypatch.setattr(cuda, "_warned", set())
    monkeypatch.setattr(folders, "_said", set())
    nvcc = fake_nvcc(tmp_path)
    monkeypatch.setattr(cuda, "find_nvcc", lambda: nvcc)
    monkeypatch.setattr(cuda, "Library", OnCpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    real = probe.failure
    monkeypatch.setattr(probe, "failure", lambda library, device: real(library, torch.device("cpu")))
    monkeypatch.setattr(backend, "_choice", "auto")


def stand_in(tmp_path: Path, code: int) -> None:
    """Have the compiler make a library whose launch answers with this code; 0: it writes wrong numbers."""
    compilers.gxx()
    source, library = tmp_path / "library.cpp", tmp_path / "library.so"
    source.write_text(SOURCE.format(code=code))
    subprocess.run(["g++", "-shared", "-fPIC", f"-I{cache.SOURCES}", source, "-o", library], check=True)
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace('echo made > "$out"', f'cp {library} "$out"'))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (222, "unsupported toolchain. (error 222)"),
        (35, "CUDA driver too old (error 35)"),
        (0, "wrong numbers"),
    ],
)
def test_what_fails_the_probe_is_not_taken(code: int, reason: str, tmp_path: Path) -> None:
    stand_in(tmp_path, code)
    with pytest.warns(RuntimeWarning, match="cuda:0 runs in plain PyTorch") as warned:
        assert backend.backend(GPU, torch.float32) is plain
    assert reason in str(warned[0].message)
    assert cache.LIBRARY in str(warned[0].message)
    assert reason in (cuda.why_not(GPU) or "")
    backend.choose("require")
    with pytest.raises(backend.KernelsMissing) as caught:
        backend.backend(GPU, torch.float32)
    assert "cuda:0" in str(caught.value)
    assert reason in str(caught.value)


def test_a_first_use_inside_a_capture_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, 35)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert isinstance(cuda.ready(GPU), OnCpu)


def test_a_library_of_other_kernels_is_reported() -> None:
    with pytest.warns(RuntimeWarning, match=r"liblaconv\.so: "):
        assert cuda.ready(GPU) is None


def test_plain_is_taken_without_a_look_at_the_compiler(tmp_path: Path) -> None:
    backend.choose("plain")
    assert backend.backend(GPU, torch.bfloat16) is plain
    assert not backend.in_use(GPU).compiled
    assert not (tmp_path / "calls").exists()
