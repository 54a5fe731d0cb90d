"""Which 8-bit types the CPU at hand is fastest with, by the instructions that it has."""

import platform
from dataclasses import dataclass
from typing import Literal

from optimization.cpu import read_cpu

IntegerType = Literal["uint8", "int8"]
X86 = ("x86_64", "AMD64")
# Each multiplies bytes and adds the products up in 32 bits.
DOT_PRODUCT_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True)
class IntegerTypes:
    """`reduce_range`: weights of 7 bits, since sums of 8-bit products could saturate."""

    activations: IntegerType
    reduce_range: bool


def fastest_types(machine: str = "", flags: frozenset[str] | None = None) -> IntegerTypes:
    """For the machine of that name (`platform.machine()`) and CPU flags; without arguments, for this one.

    On x86 unsigned activations with signed weights are what the instructions take. Those of older x86 add pairs of
    products in 16 bits, which saturate unless weights have 7 bits. Other CPUs are fastest with both signed. Source:
    the documentation of `onnxruntime.quantization.quantize_static`, "Choosing parameters for CPU inference".
    """
    if (machine or platform.machine()) not in X86:
        return IntegerTypes("int8", reduce_range=False)
    flags = read_cpu()[1] if flags is None else flags
    return IntegerTypes("uint8", reduce_range=not flags & frozenset(DOT_PRODUCT_FLAGS))
