"""Accelerators: what they compute, hold and send. Numbers are those of the makers' data sheets, dense, without sparsity.

Data sheets print the bandwidth of links both ways together; here it is one way, which is what a ring of GPUs uses. The network is that of the
maker's usual server, and of your own if you say so (`--network`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mmada.errors import InputError, suggest

__all__ = ["ACCELERATORS", "Accelerator", "accelerator"]

_GIGA, _TERA = 1e9, 1e12


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One GPU and its place in a server."""

    name: str
    bf16_flops: float
    """floating-point operations per second in bfloat16, with sums in float32"""
    fp32_flops: float
    """the same in float32, without TF32"""
    memory_bytes: float
    memory_bandwidth: float
    """bytes per second"""
    link_bandwidth: float
    """bytes per second that it can send to the GPUs of its server"""
    network_bandwidth: float
    """bytes per second that it can send to other servers, its share of the network cards"""
    gpus_per_node: int = 8
    source: str
    """where the numbers are from"""


def _gpu(
    name: str, bf16: float, fp32: float, gigabytes: float, terabytes: float, link: float, network: float, source: str, per_node: int = 8
) -> Accelerator:
    return Accelerator(
        name=name,
        bf16_flops=bf16 * _TERA,
        fp32_flops=fp32 * _TERA,
        memory_bytes=gigabytes * _GIGA,
        memory_bandwidth=terabytes * _TERA,
        link_bandwidth=link * _GIGA,
        network_bandwidth=network * _GIGA,
        gpus_per_node=per_node,
        source=source,
    )


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {
        one.name: one
        for one in (
            _gpu("a100", 312, 19.5, 80, 2.039, 300, 25, "NVIDIA A100 80GB data sheet (SXM); DGX A100: 8 x 200 Gb/s"),
            _gpu("a100-40gb", 312, 19.5, 40, 1.555, 300, 25, "NVIDIA A100 40GB data sheet (SXM); DGX A100: 8 x 200 Gb/s"),
            _gpu("h100", 989, 67, 80, 3.35, 450, 50, "NVIDIA H100 data sheet (SXM, half of the sparse number); DGX H100: 8 x 400 Gb/s"),
            _gpu("h800", 989, 67, 80, 3.35, 200, 50, "as H100, with NVLink of 400 GB/s both ways"),
            _gpu("h200", 989, 67, 141, 4.8, 450, 50, "NVIDIA H200 data sheet (SXM, half of the sparse number); DGX H200: 8 x 400 Gb/s"),
            _gpu("b200", 2250, 75, 180, 8.0, 900, 50, "NVIDIA DGX B200 data sheet, an eighth of the system"),
            _gpu(
                "l40s", 362, 91.6, 48, 0.864, 32, 6.25, "NVIDIA L40S data sheet (half of the sparse number), PCIe 4.0 x16; assumed 50 Gb/s"
            ),
            _gpu(
                "4090",
                165.2,
                82.6,
                24,
                1.008,
                32,
                3.125,
                "NVIDIA Ada GPU architecture white paper, PCIe 4.0 x16; assumed 25 Gb/s",
                per_node=4,
            ),
        )
    }
)
"""Name -> accelerator."""


def accelerator(name: str) -> Accelerator:
    """Raises InputError for an unknown name."""
    if name not in ACCELERATORS:
        raise InputError(f"gpu={name!r} is unknown: {suggest(name, ACCELERATORS)}")
    return ACCELERATORS[name]
