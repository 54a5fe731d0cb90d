import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from optimization.graphs.check import CheckedGraph
from optimization.runners.contract import BackendUnavailableError, RunnerError
from optimization.runners.device import Device
from optimization.runners.native_cache import NativeCache
from optimization.runners.onnx_runtime import CPU, CUDA, TENSORRT, OnnxRunner, computed_precision, tensorrt_options
from optimization.runners.profile import ShapeProfile
from tests.optimization.graphs.toy_graphs import HALF, INPUT, WEIGHT, linear, quantized
from tests.optimization.runners.toy_artifacts import write_onnx

ROWS = np.ones((2, 4), np.float32)


def test_a_quantized_graph_runs_in_int8(tmp_path: Path) -> None:
    runner = OnnxRunner(write_onnx(tmp_path / "int8", quantized(), "int8"))
    assert (runner.device, runner.precision) == ("cpu", "int8")
    np.testing.assert_allclose(runner(ROWS), np.full((2, 3), 0.4), atol=1e-6)


def test_a_half_precision_graph_says_that_this_cpu_computes_in_fp32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        runner = OnnxRunner(write_onnx(tmp_path / "fp16", linear(kind=HALF), "fp16"))
    np.testing.assert_allclose(runner(ROWS), ROWS @ WEIGHT, rtol=1e-2)
    if runner.precision == "fp16":
        pytest.skip("this build of ONNX Runtime has FP16 kernels for the CPU")
    assert runner.precision == "fp32"
    assert "is stored in fp16; ONNX Runtime's cpu provider computes it in fp32" in caplog.text


@pytest.mark.parametrize(
    ("made", "stored", "said"),
    [(linear(), "fp32", "int8"), (quantized(), "int8", "fp32"), (linear(kind=HALF), "fp16", "fp32")],
)
def test_a_manifest_that_says_another_precision_is_refused(
    tmp_path: Path, made: onnx.ModelProto, stored: str, said: str
) -> None:
    with pytest.raises(RunnerError, match=f"model.onnx is stored in {stored}, its manifest says {said}"):
        OnnxRunner(write_onnx(tmp_path / "odd", made, said))


def test_a_graph_that_no_kernel_runs_is_refused(tmp_path: Path) -> None:
    artifact = write_onnx(tmp_path / "bf16", linear(kind=TensorProto.BFLOAT16), "bf16")
    with pytest.raises(RunnerError, match=r"ONNX Runtime cannot open .*MatMul"):
        OnnxRunner(artifact)


def test_a_sound_graph_is_required(tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[0] = np.nan
    with pytest.raises(RunnerError, match=r"cannot run .*model\.onnx: 1 weights hold values that are not finite"):
        OnnxRunner(write_onnx(tmp_path / "nan", linear(weight)))


def _graph(precision: str, *operators: str) -> CheckedGraph:
    return CheckedGraph(18, precision, "fp16", frozenset(operators))


def test_each_provider_computes_as_it_can() -> None:
    qdq = ("QuantizeLinear", "DequantizeLinear", "Conv")
    assert computed_precision(_graph("int8", *qdq), "cpu") == "int8"
    assert computed_precision(_graph("int8", *qdq), "tensorrt") == "int8"
    # CUDA's provider has no integer convolution: it rounds, and multiplies floats.
    assert computed_precision(_graph("int8", *qdq), "cuda") == "fp16"
    assert computed_precision(_graph("int8", "MatMulInteger"), "cuda") == "int8"
    assert computed_precision(_graph("fp16", "Conv"), "cuda") == "fp16"
    assert computed_precision(_graph("fp32", "Conv"), "cpu") == "fp32"


@dataclass(frozen=True)
class _Node:
    name: str
    op_type: str


@dataclass(frozen=True)
class _Part:
    ep_name: str
    nodes: tuple[_Node, ...]

    def get_nodes(self) -> list[_Node]:
        return list(self.nodes)


class _Session:
    """Answers as ONNX Runtime's session would on a machine with a GPU, and remembers how it was opened."""

    opened: list[dict[str, Any]]
    registered: list[str]
    parts: tuple[_Part, ...]

    def __init__(self, source: str, options: Any, **settings: Any) -> None:
        self.opened.append({"source": source, "options": options, **settings})
        for name, chosen in settings["providers"]:
            if "trt_engine_cache_path" in chosen:
                (Path(chosen["trt_engine_cache_path"]) / "graph.engine").write_bytes(b"engine")
                assert name == TENSORRT

    def get_providers(self) -> list[str]:
        return self.registered

    def get_provider_graph_assignment_info(self) -> tuple[_Part, ...]:
        return self.parts


@pytest.fixture
def gpu_session(monkeypatch: pytest.MonkeyPatch) -> type[_Session]:
    """ONNX Runtime as its GPU build is, but for its arithmetic."""
    import onnxruntime

    class Session(_Session):
        opened: list[dict[str, Any]] = []  # noqa: RUF012  one list a test is the point
        registered = [TENSORRT, CUDA, CPU]  # noqa: RUF012
        parts = (_Part(TENSORRT, (_Node("product", "MatMul"),)), _Part(CPU, (_Node("shape", "Shape"),)))

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr("optimization.runners.onnx_runtime.this_gpu", lambda: Device("cuda", "NVIDIA H200", ("sm_90",)))
    return Session


def test_cuda_is_asked_for_first_without_tf32_and_without_the_librarys_own_fallback(
    tmp_path: Path, gpu_session: type[_Session]
) -> None:
    gpu_session.registered = [CUDA, CPU]
    gpu_session.parts = (_Part(CUDA, (_Node("product", "MatMul"),)),)
    runner = OnnxRunner(write_onnx(tmp_path / "a", linear()), provider="cuda")
    assert (runner.device, runner.precision) == ("cuda", "fp32")
    (how,) = gpu_session.opened
    assert how["providers"] == [(CUDA, {"use_tf32": "0"}), (CPU, {})]
    assert how["enable_fallback"] == 0
    assert how["options"].get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_a_provider_whose_libraries_did_not_load_is_no_fallback(tmp_path: Path, gpu_session: type[_Session]) -> None:
    gpu_session.registered = [CPU]
    with pytest.raises(BackendUnavailableError, match=f"runs this graph on {CPU}, not on {CUDA}: its libraries"):
        OnnxRunner(write_onnx(tmp_path / "a", linear()), provider="cuda")


def test_products_that_the_gpu_does_not_take_are_no_fallback(tmp_path: Path, gpu_session: type[_Session]) -> None:
    gpu_session.registered = [CUDA, CPU]
    gpu_session.parts = (
        _Part(CUDA, (_Node("one", "MatMul"),)),
        _Part(CPU, (_Node("two", "Conv"), _Node("s", "Shape"))),
    )
    with pytest.raises(BackendUnavailableError, match=rf"{CUDA} does not take 1 of the graph's products: Conv \(two\)"):
        OnnxRunner(write_onnx(tmp_path / "a", linear()), provider="cuda")


def test_tensorrt_is_told_shapes_and_precision_and_builds_once(tmp_path: Path, gpu_session: type[_Session]) -> None:
    artifact = write_onnx(tmp_path / "a", quantized(), "int8")
    cache = NativeCache(tmp_path / "native")
    profile = ShapeProfile((1, 4), (2, 4), (16, 4))
    runner = OnnxRunner(artifact, provider="tensorrt", cache=cache, profile=profile)
    assert (runner.device, runner.precision) == ("cuda", "int8")
    built, opened = gpu_session.opened
    chosen = dict(opened["providers"])[TENSORRT]
    assert chosen["trt_profile_max_shapes"] == "x:16x4"
    assert chosen["trt_int8_enable"] == "1"
    folder = Path(chosen["trt_engine_cache_path"])
    assert (folder / "graph.engine").is_file()
    assert dict(built["providers"])[TENSORRT]["trt_engine_cache_path"] != str(folder)
    OnnxRunner(artifact, provider="tensorrt", cache=cache, profile=profile)
    assert len(gpu_session.opened) == 3
    OnnxRunner(artifact, provider="tensorrt", cache=cache, profile=ShapeProfile((1, 4), (2, 4), (32, 4)))
    assert len(gpu_session.opened) == 5


def test_tensorrts_options_follow_the_profile_and_the_precision() -> None:
    profile = ShapeProfile((1, 4), (2, 4), (16, 4))
    options = tensorrt_options(INPUT, "fp32", profile)
    assert options == {
        "trt_profile_min_shapes": "x:1x4",
        "trt_profile_opt_shapes": "x:2x4",
        "trt_profile_max_shapes": "x:16x4",
    }
    assert tensorrt_options(INPUT, "fp16", profile)["trt_fp16_enable"] == "1"


def test_a_profile_of_another_shape_is_refused(tmp_path: Path, gpu_session: type[_Session]) -> None:
    with pytest.raises(ValueError, match="axis 1 of input 'x' is always 4"):
        OnnxRunner(
            write_onnx(tmp_path / "a", linear()), provider="tensorrt", profile=ShapeProfile((1, 5), (2, 5), (3, 5))
        )
    assert not gpu_session.opened
