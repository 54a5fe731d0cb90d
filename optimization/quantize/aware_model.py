"""The architecture of quantization-aware training: another architecture, computing as its INT8 graph will.

As data it is `Architecture("optimization.quantize.aware_model:fake_quantized", {"of": {...}, ...})`, so that trained
weights and ranges reload from safetensors.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimization.quantize.cpu import IntegerType
from optimization.quantize.error import QuantizationError
from optimization.quantize.fake import FakeQuantize, Weighted
from optimization.quantize.insertion import Numerics, with_fake_quantizers
from optimization.quantize.ranges import Range, find_ranges
from optimization.quantize.rows import feeds
from optimization.quantize.static import StaticInt8
from training.encoding import Array, Encoding
from training.models.architecture import Architecture, build, self_contained

REFERENCE = "optimization.quantize.aware_model:fake_quantized"


def aware_architecture(of: Architecture, static: StaticInt8, learned: bool) -> Architecture:
    """`of` under the numerics of `static`, with what this CPU decides decided."""
    of = self_contained(of)
    return Architecture(
        REFERENCE,
        {
            "of": of.to_json(),
            "activations": static.activation_type,
            "per_channel": static.per_channel,
            "reduce_range": static.reduces_range,
            "symmetric": static.symmetric,
            "learned": learned,
        },
    )


def numerics_of(architecture: Architecture) -> Numerics:
    """Of an architecture that `aware_architecture` made."""
    params = architecture.params
    return Numerics(
        signed=params["activations"] == "int8",
        per_channel=params["per_channel"],
        reduce_range=params["reduce_range"],
        symmetric=params["symmetric"],
        learned=params["learned"],
    )


def is_aware(architecture: Architecture | None) -> bool:
    return architecture is not None and architecture.name == REFERENCE


def fake_quantized(
    encoding: Encoding,
    of: Mapping[str, Any],
    activations: IntegerType,
    per_channel: bool,
    reduce_range: bool,
    symmetric: bool,
    learned: bool,
) -> nn.Module:
    """`of` is an Architecture as data; the module has its weights with the normalization folded in, and ranges."""
    inner = build(Architecture.from_json(of), encoding)
    numerics = Numerics(activations == "int8", per_channel, reduce_range, symmetric, learned)
    return with_fake_quantizers(inner, numerics, example_of(encoding))


def example_of(encoding: Encoding) -> Tensor:
    """Two rows that a model of this Encoding takes."""
    spec = encoding.input_spec
    return torch.from_numpy(np.ones([2 if size == -1 else size for size in spec.shape], spec.dtype))


def calibrate(module: nn.Module, rows: Array, input_name: str, static: StaticInt8) -> dict[str, Range]:
    """Set every range of a fake-quantized `module` from its float activations on `rows`; returns them by name.

    Raises QuantizationError where they are not finite.
    """
    quantizers = {name: part for name, part in module.named_modules() if isinstance(part, FakeQuantize)}
    found = find_ranges(
        lambda: _activations(module, quantizers, rows, input_name), static.calibrator, static.percentile
    )
    for name, extent in found.items():
        quantizers[name].set_range(extent.low, extent.high)
    missing = [name for name in quantizers if name not in found]
    if missing:
        raise QuantizationError(f"no row came through {', '.join(missing[:5])}: their ranges cannot be set")
    return found


def _activations(
    module: nn.Module, quantizers: Mapping[str, FakeQuantize], rows: Array, input_name: str
) -> Iterator[dict[str, Array]]:
    """What goes into each fake quantizer, a batch at a time, with everything in float."""
    seen: dict[str, Array] = {}

    def watch(name: str) -> Any:
        def look(part: nn.Module, given: tuple[Tensor]) -> None:
            # A grid that is used again further on only sees its own values again, and zeros.
            seen.setdefault(name, given[0].detach().float().numpy())

        return look

    switched = [part for part in module.modules() if isinstance(part, FakeQuantize | Weighted)]
    hooks = [part.register_forward_pre_hook(watch(name)) for name, part in quantizers.items()]
    training = module.training
    module.eval()
    for part in switched:
        part.enabled = False
    try:
        with torch.no_grad():
            for feed in feeds(rows, input_name):
                seen.clear()
                module(torch.from_numpy(feed[input_name].copy()))
                yield dict(seen)
    finally:
        for part in switched:
            part.enabled = True
        for hook in hooks:
            hook.remove()
        module.train(training)
