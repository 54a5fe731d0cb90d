"""Export: an nn.Module -> a self-contained ONNX graph whose batch (and token) axis stays dynamic."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from training.encoding import Array, TensorSpec

if TYPE_CHECKING:
    from torch import nn


class ExportError(ValueError):
    """A module that cannot become a sound ONNX graph."""


def export_onnx(module: "nn.Module", example: Array, input_spec: TensorSpec, output_spec: TensorSpec) -> bytes:
    """Serialized ONNX of `module` by PyTorch's dynamo exporter; it reads `input_spec`, answers `output_spec`.

    `example` needs at least two rows (and tokens): the exporter takes a size of one for a constant.
    Raises ExportError where the module cannot be exported or its weights are not finite.
    """
    import torch

    broken = [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise ExportError(f"the weights {', '.join(broken[:5])} hold values that are not finite")
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(input_spec.shape) if size == -1}
    if any(example.shape[axis] < 2 for axis in dynamic):
        raise ExportError(f"the example has shape {example.shape}: each dynamic axis needs a size of 2 or more")
    module = module.eval().cpu()
    try:
        with _quiet():
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
