"""What can be tested of TensorRT's Runner without TensorRT: what the builder is told, what is refused, the cache, the
locking. The arithmetic is ONNX Runtime's.
"""

import importlib.machinery
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from optimization.runners.contract import BackendUnavailableError, RunnerError
from optimization.runners.device import Device
from optimization.runners.native_cache import NativeCache
from optimization.runners.profile import ShapeProfile
from optimization.runners.tensorrt_engine import TensorRtRunner, build_engine, load_engine, require_tensorrt
from tests.optimization.graphs.toy_graphs import HALF, INPUT, WEIGHT, linear, model, quantized, tensor
from tests.optimization.runners import fake_tensorrt
from tests.optimization.runners.toy_artifacts import write_onnx
from training.artifact import Artifact

PROFILE = ShapeProfile((1, 4), (2, 4), (8, 4))
MODULE = "optimization.runners.tensorrt_engine"


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = fake_tensorrt.make()
    fake.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(f"{MODULE}.require_torch_cuda", lambda: None)
    monkeypatch.setattr(f"{MODULE}.this_gpu", lambda: Device("cuda", "NVIDIA H200", ("sm_90",)))
    return fake


@pytest.fixture
def cache(tmp_path: Path) -> NativeCache:
    return NativeCache(tmp_path / "native")


def _open(artifact: Artifact, cache: NativeCache, profile: ShapeProfile | None = PROFILE) -> TensorRtRunner:
    return TensorRtRunner(artifact, cache, profile, open_lane=fake_tensorrt.Lane)


def test_the_builder_is_told_types_shapes_and_no_tf32(trt: Any) -> None:
    plan = build_engine(linear().SerializeToString(), INPUT, PROFILE)
    (builder,) = trt.Builder.made
    assert builder.flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert builder.config.cleared == [trt.BuilderFlag.TF32]
    (shapes,) = builder.config.profiles
    assert shapes.set == {"x": ((1, 4), (2, 4), (8, 4))}
    assert load_engine(plan) == linear().SerializeToString()


def test_the_parsers_words_are_passed_on(trt: Any) -> None:
    made = model([helper.make_node("Elu", ["x"], ["logits"])])
    with pytest.raises(RunnerError, match=r"TensorRT 10\.14\.1 cannot read the graph: no importer for Warp"):
        build_engine(made.SerializeToString(), INPUT, PROFILE)


def test_a_builder_that_gives_up_is_an_error(trt: Any) -> None:
    trt.Builder.gives_up = True
    with pytest.raises(RunnerError, match=r"cannot build an engine of the graph for shape profile \[1, 4\]"):
        build_engine(linear().SerializeToString(), INPUT, PROFILE)


def test_a_profile_of_another_model_is_refused_before_anything_is_built(trt: Any) -> None:
    with pytest.raises(ValueError, match="axis 1 of input 'x' is always 4"):
        build_engine(linear().SerializeToString(), INPUT, ShapeProfile((1, 5), (1, 5), (1, 5)))
    assert not trt.Builder.made


def test_an_engine_of_another_machine_is_refused(trt: Any) -> None:
    with pytest.raises(RunnerError, match="does not take the engine"):
        load_engine(b"of another version")


@pytest.mark.parametrize(
    ("made", "precision"), [(linear(), "fp32"), (linear(kind=HALF), "fp16"), (quantized(), "int8")], ids=str
)
def test_a_runner_answers_as_the_graph_in_the_graphs_precision(
    trt: Any, cache: NativeCache, tmp_path: Path, made: Any, precision: str
) -> None:
    runner = _open(write_onnx(tmp_path / "a", made, precision), cache)
    assert (runner.device, runner.precision) == ("cuda", precision)
    rows = np.ones((3, 4), np.float32)
    expected = np.full((3, 3), 0.4) if precision == "int8" else rows @ WEIGHT
    np.testing.assert_allclose(runner(rows), expected, atol=1e-2)


def test_an_engine_is_built_once_a_model_and_profile(trt: Any, cache: NativeCache, tmp_path: Path) -> None:
    artifact = write_onnx(tmp_path / "a", linear())
    _open(artifact, cache)
    _open(artifact, cache)
    assert len(trt.Builder.made) == 1
    _open(artifact, cache, ShapeProfile((1, 4), (2, 4), (16, 4)))
    _open(write_onnx(tmp_path / "b", linear(WEIGHT + 1)), cache)
    assert len(trt.Builder.made) == 3


def test_another_version_builds_its_own(trt: Any, cache: NativeCache, tmp_path: Path) -> None:
    artifact = write_onnx(tmp_path / "a", linear())
    _open(artifact, cache)
    trt.__version__ = "10.15.0"
    _open(artifact, cache)
    assert len(trt.Builder.made) == 2


def test_a_corrupt_engine_is_built_anew(trt: Any, cache: NativeCache, tmp_path: Path) -> None:
    artifact = write_onnx(tmp_path / "a", linear())
    _open(artifact, cache)
    (engine,) = (tmp_path / "native").glob("*/model.engine")
    engine.write_bytes(b"plan:corrupt")
    runner = _open(artifact, cache)
    assert len(trt.Builder.made) == 2
    assert runner(np.ones((1, 4), np.float32)).shape == (1, 3)


def test_a_batch_outside_of_the_profile_is_refused(trt: Any, cache: NativeCache, tmp_path: Path) -> None:
    runner = _open(write_onnx(tmp_path / "a", linear()), cache)
    with pytest.raises(RunnerError, match=r"shape \[9, 4\] lies outside of the engine's shape profile .* \[8, 4\]"):
        runner(np.ones((9, 4), np.float32))
    with pytest.raises(RunnerError, match=r"wants FP32 \[-1, 4\]; got float64"):
        runner(np.ones((2, 4)))


def test_calls_take_turns(trt: Any, cache: NativeCache, tmp_path: Path) -> None:
    runner = _open(write_onnx(tmp_path / "a", linear()), cache)
    batches = [np.full((1 + row % 8, 4), row, np.float32) for row in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for batch, logits in zip(batches, pool.map(runner, batches), strict=True):
            np.testing.assert_allclose(logits, batch @ WEIGHT, rtol=1e-5)


def test_a_graph_that_is_not_strongly_typed_is_refused_and_leaves_nothing(
    trt: Any, cache: NativeCache, tmp_path: Path
) -> None:
    with pytest.raises(RunnerError, match=r"cannot build an engine of .*quantize symmetrically"):
        _open(write_onnx(tmp_path / "a", quantized(zero_point=5), "int8"), cache)
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["logits"], domain="com.microsoft")]
    fused = model(nodes, [tensor("w", WEIGHT)], domains=["com.microsoft"])
    with pytest.raises(RunnerError, match=r"com\.microsoft:FusedMatMul"):
        _open(write_onnx(tmp_path / "b", fused), cache)
    assert not trt.Builder.made
    assert not list((tmp_path / "native").glob("[!.]*"))


def test_a_manifest_that_says_another_precision_is_refused(trt: Any, cache: NativeCache, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="is stored in fp32, its manifest says fp16"):
        _open(write_onnx(tmp_path / "a", linear(), "fp16"), cache)


def test_an_old_version_is_unavailable(trt: Any) -> None:
    trt.__version__ = "8.6.1"
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 8\.6\.1 is installed; .* need 10 or newer"):
        require_tensorrt()


def test_a_package_without_its_libraries_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"cannot be loaded: libnvinfer\.so\.10"):
        require_tensorrt()
