"""The one door to ONNX Runtime's quantization tools. Models are ModelProtos; what fails is a QuantizationError."""

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimization.quantize.cpu import IntegerType
from optimization.quantize.error import QuantizationError
from optimization.quantize.ranges import Range
from optimization.runners.onnx_runtime import onnx_session
from training.encoding import Array


def prepared(model: Any) -> Any:
    """The model as ONNX Runtime's optimizer leaves it: constants folded, batch normalization in the convolutions."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def run(source: Path, target: Path) -> None:
        # Symbolic inference cannot follow an LSTM's shapes; ONNX's own inference is enough.
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)

    made = _through_files(model, run)
    # Optimization leaves stale shapes of inner tensors, on which later inference stumbles.
    del made.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(made)


def static_ops() -> tuple[str, ...]:
    """The operators that have a static 8-bit form."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))


def with_qdq(
    model: Any,
    ranges: Mapping[str, Range],
    *,
    activations: IntegerType,
    weights: IntegerType,
    per_channel: bool,
    reduce_range: bool,
    symmetric: bool,
    ops: Sequence[str],
    float_nodes: Sequence[str],
) -> Any:
    """A copy of a prepared float model with QuantizeLinear and DequantizeLinear by `ranges` (tensor -> Range).

    This is what `quantize_static` does after its calibration.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    seen = {name: (np.float32(extent.low), np.float32(extent.high)) for name, extent in ranges.items()}
    with _refusing(), _quiet():
        quantizer = QDQQuantizer(
            copy.deepcopy(model),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_qType=types[weights],
            activation_qType=types[activations],
            tensors_range=TensorsData(CalibrationMethod.MinMax, seen),
            nodes_to_quantize=[],
            nodes_to_exclude=list(float_nodes),
            op_types_to_quantize=list(ops),
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": weights == "int8"},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return quantizer.model.model


def dynamically_quantized(
    model: Any, *, per_channel: bool, reduce_range: bool, ops: Sequence[str], float_nodes: Sequence[str]
) -> Any:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def run(source: Path, target: Path) -> None:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(ops),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(float_nodes),
        )

    return _through_files(model, run)


def weight_only_quantized(model: Any, *, bits: int, block_size: int, min_values: int) -> Any:
    """A copy whose MatMuls and Gemms by a constant of `min_values` and more are MatMulNBits."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    with _refusing(), _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        copied = ONNXModel(copy.deepcopy(model))
        copied.replace_gemm_with_matmul()
        sizes = {tensor.name: onnx.numpy_helper.to_array(tensor).size for tensor in copied.initializer()}
        small = [
            node.name
            for node in copied.nodes()
            if node.op_type == "MatMul" and sizes.get(node.input[1], 0) < min_values
        ]
        # Level 4: activations are made 8-bit on the way, which is what makes it fast.
        quantizer = MatMulNBitsQuantizer(
            copied.model, bits=bits, block_size=block_size, is_symmetric=True, accuracy_level=4, nodes_to_exclude=small
        )
        quantizer.process()
        return quantizer.model.model


def to_float16(model: Any, float_ops: Sequence[str]) -> Any:
    """A copy with fp16 inside and its inputs and outputs as they were; operators without an fp16 form stay as well."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    with _refusing(), _quiet():
        return convert_float_to_float16(
            copy.deepcopy(model), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *float_ops]
        )


def optimized(content: bytes) -> Any:
    """The graph that ONNX Runtime really runs on this CPU; raises QuantizationError where it cannot."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch, _refusing():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def activations_of(
    model: Any, tensors: Sequence[str], feeds: Iterator[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """What the named inner tensors hold, by name, one batch after another."""
    import onnx

    watched = copy.deepcopy(model)
    outputs = {output.name for output in watched.graph.output}
    inputs = {given.name for given in watched.graph.input}
    inner = [name for name in tensors if name not in inputs]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in outputs)
    with _refusing():
        session = onnx_session(watched.SerializeToString())
    for feed in feeds:
        with _refusing():
            held = dict(zip(inner, session.run(inner, dict(feed)), strict=True)) if inner else {}
        yield held | {name: feed[name] for name in tensors if name in inputs}


def _through_files(model: Any, run: Callable[[Path, Path], None]) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as scratch, _refusing(), _quiet():
        source, target = Path(scratch) / "source.onnx", Path(scratch) / "target.onnx"
        onnx.save(model, source)
        run(source, target)
        return onnx.load(target)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except QuantizationError:
        raise
    except Exception as error:  # onnx and its runtime raise types of their own, with no common root
        raise QuantizationError(f"ONNX Runtime cannot quantize this graph: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools speak on stdout and through the root logger, of matters their caller cannot change.

    One of them also gives that logger a handler when it is imported, which is the program's choice and not a library's.
    """
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), logging.root.manager.disable
    root.setLevel(logging.ERROR)
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
