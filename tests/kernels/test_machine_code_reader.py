"""The reader of machine code, by kernels whose loops are known to the instruction."""

from __future__ import annotations

import pytest

from tests.kernels.machine_code import Function, compile_text, counted, read

KERNELS = r"""
#include <stdint.h>
__global__ void dot(const float4* __restrict__ x, const float4* __restrict__ y, float* __restrict__ out, int steps) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    const float4 a = __ldg(x + i * 128 + threadIdx.x), b = __ldg(y + i * 128 + threadIdx.x);
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    sum = fmaf(a.w, b.w, sum);
  }
  out[threadIdx.x] = sum;
}
__global__ void widths(const unsigned short* x, const unsigned char* y, uint2* out, int steps) {
  __shared__ uint32_t there[128];
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    there[threadIdx.x] = x[i * 128 + threadIdx.x] + y[i * 128 + threadIdx.x];
    __syncthreads();
    const uint4 found = *reinterpret_cast<const uint4*>(there + threadIdx.x / 32 * 4);
    out[i * 128 + threadIdx.x] = uint2{__shfl_xor_sync(~0u, found.x + found.y, 1), found.z ^ found.w};
    __syncthreads();
  }
}
__global__ void product(const uint32_t* __restrict__ x, float4* out, int steps, int rounds) {
  float c[4] = {};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      const uint32_t a = x[i * 32 + threadIdx.x];
#pragma unroll
      for (int twice = 0; twice < 2; ++twice)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a));
    }
    out[round * 32 + threadIdx.x] = float4{c[0], c[1], c[2], c[3]};
  }
}
__global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* out, int steps) {
  float held[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) held[i] = x[i * 1024 + threadIdx.x];
#pragma unroll 1
  for (int step = 0; step < steps; ++step)
#pragma unroll
    for (int i = 0; i < 64; ++i) held[i] = fmaf(held[i], held[(i + 1) % 64], x[step]);
#pragma unroll
  for (int i = 0; i < 64; ++i) out[i * 1024 + threadIdx.x] = held[i];
}
"""


@pytest.fixture(scope="module", params=["80", "90a", "100"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Function]:
    found = read(compile_text(KERNELS, request.param, tmp_path_factory.mktemp("text")))
    return {function.symbol.strip("_Z0123456789").partition("PK")[0]: function for function in found}


def test_every_kernel_is_found_by_its_name(kernels: dict[str, Function]) -> None:
    assert kernels.keys() == {"dot", "widths", "product", "spilling"}
    assert all(name in function.name for name, function in kernels.items())


def test_loads_and_multiplications_of_a_loop(kernels: dict[str, Function]) -> None:
    (loop,) = kernels["dot"].loops
    wanted = {"LDG.128": 2, "FFMA": 4, "BRA": 1, "LDG.32": 0, "LDG.16": 0, "STG.32": 0, "HMMA": 0}
    assert {name: loop.counts[name] for name in wanted} == wanted
    assert loop.total == sum(loop.counts.values()) <= 20
    assert kernels["dot"].whole.counts["STG.32"] == 1


def test_each_width_is_told_apart(kernels: dict[str, Function]) -> None:
    counts = kernels["widths"].loop_of("BAR").counts
    wanted = {"LDG.16": 1, "LDG.8": 1, "STS.32": 1, "LDS.128": 1, "STG.64": 1, "SHFL": 1, "BAR": 2}
    assert {name: counts[name] for name in wanted} == wanted
    assert kernels["widths"].shared == 512


def test_the_innermost_loop_with_all_of_an_operation(kernels: dict[str, Function]) -> None:
    function = kernels["product"]
    outer = max(function.loops, key=lambda loop: loop.total)
    inner = function.loop_of("HMMA")
    assert outer.counts["HMMA"] == inner.counts["HMMA"] == 2
    assert inner.total < outer.total
    assert (inner.counts["STG.128"], outer.counts["STG.128"]) == (0, 1)
    with pytest.raises(LookupError, match=r"product.*LDSM"):
        function.loop_of("LDSM")


def test_spills_show(kernels: dict[str, Function]) -> None:
    spilling, dot = kernels["spilling"], kernels["dot"]
    assert spilling.registers <= 32 < 64
    assert spilling.spills > 0
    assert spilling.whole.counts["STL.32"] + spilling.whole.counts["STL.64"] + spilling.whole.counts["STL.128"] > 0
    assert (dot.spills, dot.stack, dot.shared) == (0, 0, 0)
    assert 0 < dot.registers < 64


def test_names_of_operations() -> None:
    spelled = {
        "MOV": ("MOV", "IMAD.MOV.U32", "CS2R", "CS2R.32", "MOV.SPILL"),
        "LDG.128": ("LDG.E.128.CONSTANT", "LDG.E.EF.128"),
        "LDG.32": ("LDG.E.CONSTANT", "LDG.E.STRONG.GPU"),
        "LDG.16": ("LDG.E.U16.CONSTANT", "LDG.E.S16"),
        "LDS.64": ("LDS.64",),
        "LDGSTS": ("LDGSTS.E.BYPASS.128",),
        "IMAD.WIDE": ("IMAD.WIDE.U32",),
        "IMAD": ("IMAD", "IMAD.IADD", "IMAD.SHL.U32"),
        "HMMA": ("HMMA.16816.F32.BF16",),
        "MOVM": ("MOVM.16.MT88",),
        "LDSM": ("LDSM.16.MT88.4",),
    }
    for name, instructions in spelled.items():
        assert counted(instructions) == {name: len(instructions)}
