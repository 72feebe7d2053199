"""The CUDA sources compile everywhere, without spills; the counts on the device page hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdrt.benchmarks.lab.device.compiler import (
    ARCHITECTURES,
    Compile,
    CompileError,
    find_compiler,
    usages,
)
from mdrt.kernels.cuda.module import NAMES, source

DOCUMENT = Path(__file__).parents[2] / "docs" / "notes" / "device.md"
KERNELS = {
    "edge_labels": ["edge_labels_uint16", "edge_labels_uint8"],
    "labels": ["labels_uint16", "labels_uint8"],
    "pixel_norms": ["neighbour_products", "pixel_norms"],
    "pooled_attention": ["pool_float", "pool_half", "relative_maps"],
}


@pytest.fixture(scope="module")
def compile_source() -> Compile:
    found = find_compiler()
    if found is None:
        pytest.skip("neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc is here")
    return found[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_compile_without_warnings_or_spills(
    compile_source: Compile, name: str, architecture: int
) -> None:
    found = usages(compile_source(source(name), architecture))
    assert [usage.kernel for usage in found] == KERNELS[name]
    for usage in found:
        assert 0 < usage.registers <= 128  # two blocks of 256 threads share 65,536
        assert usage.spills == 0


def test_a_warning_is_an_error(compile_source: Compile) -> None:
    unused = 'extern "C" __global__ void idle() { int unused; }'
    with pytest.raises(CompileError, match="unused"):
        compile_source(unused, 80)


def test_a_spill_is_counted(compile_source: Compile) -> None:
    """A kernel held to far fewer registers than its array needs."""
    crowded = """extern "C" __global__ void __launch_bounds__(1024, 2) crowded(float* to) {
        float held[128];
        #pragma unroll
        for (int i = 0; i < 128; ++i) held[i] = to[i * 1024 + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 128; ++i) to[i * 1024 + threadIdx.x] = held[127 - i] * held[i];
    }"""
    assert usages(compile_source(crowded, 80))[0].spills > 0


def test_the_document_holds_the_counts() -> None:
    pytest.importorskip("diffusers")
    from mdrt.benchmarks.lab.device.counts import GPUS, after_the_networks
    from mdrt.benchmarks.lab.device.document import work_table
    from mdrt.benchmarks.lab.device.layers import networks, unet

    before, after, whole = networks(), after_the_networks(), unet(whole=True)
    # 10⁹ multiply-adds that others counted: onnx-tool 566 for the VAE encoder; 339 for the UNet
    # without attention products, 402 with them
    flops = [stage.flops / 2e9 for stage in (*before[:2], whole)]
    assert flops == pytest.approx([558, 6.7, 402], rel=0.02)
    assert 0.6 < before[2].flops / whole.flops < 0.7
    for gpu in GPUS:
        late, early = (sum(map(gpu.floor, part)) for part in (after, before))
        assert late < 0.02 * (late + early)
    assert work_table(before, after, whole) in DOCUMENT.read_text(encoding="utf-8")
