"""Export: an nn.Module -> a graph whose batch (and token) axis stays dynamic, for ONNX, AOTInductor or Core ML.

Only ONNX becomes an Artifact. A `torch.export` program is compiled where it runs and not kept; Core ML packages are
for devices that Tandem does not serve from, and none is read back. TorchScript is left out: PyTorch deprecates it, and
loading a file of it runs what the file says.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.encoding import Array, TensorSpec

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


class ExportError(ValueError):
    """A module that cannot become a sound ONNX graph."""


def export_onnx(module: "nn.Module", example: Array, input_spec: TensorSpec, output_spec: TensorSpec) -> bytes:
    """Serialized ONNX of `module` by PyTorch's dynamo exporter; it reads `input_spec`, answers `output_spec`.

    `example` needs at least two rows (and tokens): the exporter takes a size of one for a constant.
    Raises ExportError where the module cannot be exported or its weights are not finite.
    """
    import torch

    dynamic = _dynamic_axes(module, example, input_spec)
    module = module.eval().cpu()
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                (torch.from_numpy(np.array(example)),),
                dynamo=True,
                input_names=[input_spec.name],
                output_names=[output_spec.name],
                dynamic_shapes=(dynamic,),
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its stages raise
        raise ExportError(f"PyTorch's ONNX exporter failed: {error}") from error
    assert program is not None
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized


def export_torch_program(module: "nn.Module", example: Array, input_spec: TensorSpec) -> "ExportedProgram":
    """`module` in eval mode as a `torch.export` program, on the device that its weights are on.

    `example` as for `export_onnx`. Raises ExportError where the module cannot be exported (recurrent networks unroll to
    the example's length, and are refused for it) or its weights are not finite.
    """
    import torch

    dynamic = _dynamic_axes(module, example, input_spec)
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    inputs = torch.from_numpy(np.array(example)).to(device)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module.eval(), (inputs,), dynamic_shapes=(dynamic,))
    except Exception as error:  # the exporter raises whatever its stages raise
        raise ExportError(f"torch.export failed: {error}") from error


def export_coreml(
    module: "nn.Module", example: Array, input_spec: TensorSpec, output_spec: TensorSpec, target: Path
) -> None:
    """Write `module` to the new package `target` (NAME.mlpackage) for Apple's devices, by coremltools.

    Raises ExportError without coremltools (it is no dependency of Tandem), and where it refuses the module.
    """
    try:
        import coremltools
    except ImportError as error:
        raise ExportError(
            "Core ML export needs coremltools, which is not installed: pip install coremltools"
        ) from error
    if target.suffix != ".mlpackage" or target.exists():
        raise ExportError(f"{target} cannot be written: give a new folder whose name ends in .mlpackage")
    program = export_torch_program(module.cpu(), example, input_spec)
    try:
        with quiet():
            # It reads programs of ATen's own operators.
            package = coremltools.convert(
                program.run_decompositions({}), outputs=[coremltools.TensorType(name=output_spec.name)]
            )
            package.save(str(target))
    except Exception as error:  # coremltools raises whatever its passes raise
        raise ExportError(f"coremltools cannot convert the module: {error}") from error


def _dynamic_axes(module: "nn.Module", example: Array, input_spec: TensorSpec) -> dict[int, Any]:
    import torch

    broken = [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise ExportError(f"the weights {', '.join(broken[:5])} hold values that are not finite")
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(input_spec.shape) if size == -1}
    if any(example.shape[axis] < 2 for axis in dynamic):
        raise ExportError(f"the example has shape {example.shape}: each dynamic axis needs a size of 2 or more")
    return dynamic


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter reports on stdout and through loggers what is of no use to its caller."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
