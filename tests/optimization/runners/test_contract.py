"""One contract for every Runner: each test here runs over all backends that this machine has.

What the others lack is the reason of a skipped test.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimization.runners.contract import Runner, RunnerError
from optimization.runners.names import BACKENDS, Backend
from optimization.runners.open import open_runner, why_unavailable
from optimization.runners.profile import profile_for
from tests.toys import VOCABULARY, images, write_torch
from training.artifact import Artifact, write_artifact
from training.encoding import Array
from training.models.architecture import Architecture
from training.module import load_module, predictor
from training.task import Source, Task

# AOTInductor has no recurrent networks of any length: its texts are read by a bag of embeddings.
KINDS = {backend: ("images", "bags" if backend.startswith("aot") else "texts") for backend in BACKENDS}
# To compile takes seconds.
CASES = [
    pytest.param((backend, kind), marks=[pytest.mark.slow] if backend.startswith("aot") else [], id=f"{backend}-{kind}")
    for backend, kinds in KINDS.items()
    if why_unavailable(backend) is None
    for kind in kinds
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_this_machine_runs_the_contract_on(backend: Backend) -> None:
    reason = why_unavailable(backend)
    if reason is not None:
        pytest.skip(reason)
    assert [case for case in CASES if case.id and case.id.startswith(backend)]


@pytest.fixture(scope="module")
def tasks(exported_images: Any, exported_texts: Any) -> dict[str, Task]:
    return {"images": exported_images.task, "texts": exported_texts.task, "bags": exported_texts.task}


@pytest.fixture(scope="module")
def artifacts(
    exported_images: Any, exported_texts: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Artifact]:
    bag = Architecture("bag_of_embeddings", {"vocabulary": VOCABULARY, "embedding": 8, "hidden": 8})
    return {
        ("images", "torch"): exported_images.source,
        ("images", "onnx"): exported_images.variant.artifact,
        ("texts", "torch"): exported_texts.source,
        ("texts", "onnx"): exported_texts.variant.artifact,
        ("bags", "torch"): write_torch(tmp_path_factory.mktemp("bag") / "a", exported_texts.task, bag),
    }


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "native"


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Backend, str]:
    backend, kind = request.param
    return backend, kind


@pytest.fixture(scope="module")
def runner(case: tuple[Backend, str], artifacts: dict[tuple[str, str], Artifact], native: Path) -> Runner:
    backend, kind = case
    artifact = artifacts[kind, "onnx" if backend.startswith(("onnx", "tensorrt")) else "torch"]
    profile = profile_for(artifact.manifest.input, batch=(1, 8, 64), length=(1, 8, 64))
    return open_runner(artifact, backend=backend, cache_dir=native, profile=profile)


@pytest.fixture(scope="module")
def inputs(case: tuple[Backend, str], tasks: dict[str, Task]) -> Array:
    return tasks[case[1]].splits["report"].inputs[:60]


def test_a_runner_says_what_it_takes_gives_and_runs_on(runner: Runner, case: tuple[Backend, str]) -> None:
    backend, kind = case
    assert (runner.input_spec.name, runner.output_spec.name) == ("image" if kind == "images" else "tokens", "logits")
    gpu = backend.endswith(("cuda", "tensorrt"))
    assert (runner.precision, runner.device) == ("fp32", "cuda" if gpu else "cpu")


def test_logits_are_the_modules(
    runner: Runner, case: tuple[Backend, str], artifacts: dict[tuple[str, str], Artifact], inputs: Array
) -> None:
    module = load_module(artifacts[case[1], "torch"])
    logits = runner(inputs)
    assert logits.dtype == np.float32
    assert logits.shape == (len(inputs), runner.output_spec.shape[1])
    np.testing.assert_allclose(logits, predictor(module)(inputs), atol=1e-4)


def test_a_row_is_answered_alike_in_every_batch(runner: Runner, inputs: Array) -> None:
    whole = runner(inputs)
    for size in (1, 2, 3, 7, 32):
        parts = [runner(inputs[first : first + size]) for first in range(0, len(inputs), size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


def test_eight_threads_get_their_own_answers(runner: Runner, inputs: Array) -> None:
    batches = [np.roll(inputs, shift, axis=0)[: 4 + shift % 5] for shift in range(64)]
    expected = [runner(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(runner, batches), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_array_may_be_read_only_or_a_view(runner: Runner, inputs: Array) -> None:
    expected = runner(inputs[::2].copy())
    read_only = np.frombuffer(inputs.tobytes(), inputs.dtype).reshape(inputs.shape)
    np.testing.assert_allclose(runner(read_only[::2]), expected, atol=1e-6)
    backwards = np.ascontiguousarray(inputs[::-1])[::-1]
    np.testing.assert_allclose(runner(backwards[::2]), expected, atol=1e-6)


def test_the_input_is_left_as_it_was_and_the_answer_is_the_callers(runner: Runner, inputs: Array) -> None:
    batch = inputs[:4].copy()
    first = runner(batch)
    kept = first.copy()
    assert (batch == inputs[:4]).all()
    runner(inputs[4:8])
    assert (first == kept).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, ">i8"])
def test_another_dtype_is_refused(runner: Runner, inputs: Array, dtype: str) -> None:
    with pytest.raises(RunnerError, match=f"input '{runner.input_spec.name}' wants {runner.input_spec.datatype}"):
        runner(inputs.astype(dtype))


def test_another_shape_is_refused(runner: Runner, inputs: Array) -> None:
    for wrong in (inputs[0], inputs[None], inputs[:0]):
        with pytest.raises(RunnerError, match=r"wants .*; got"):
            runner(wrong)
    if inputs.ndim == 4:
        with pytest.raises(RunnerError, match=r"\[-1, 1, 8, 8\]; got uint8 \[60, 1, 8, 3\]"):
            runner(inputs[..., :3])
    else:
        with pytest.raises(RunnerError, match=r"got int64 \[60, 0\]"):
            runner(inputs[:, :0])


def test_texts_of_any_length_are_answered(
    runner: Runner, case: tuple[Backend, str], artifacts: dict[tuple[str, str], Artifact], inputs: Array
) -> None:
    if case[1] == "images":
        pytest.skip("images have one size")
    module = predictor(load_module(artifacts[case[1], "torch"]))
    for batch in (inputs[:1, :1], inputs[:3, :5], np.tile(inputs[:2], (1, 6))):
        np.testing.assert_allclose(runner(batch), module(batch), atol=1e-4)


def _rewritten(sound: Artifact, folder: Path, content: bytes, **changes: object) -> Artifact:
    about = {name: getattr(sound.manifest, name) for name in sound.manifest.__dataclass_fields__ if name != "files"}
    return write_artifact(folder, {"model.onnx": content}, **{**about, **changes})


def test_what_is_no_graph_is_refused(artifacts: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    broken = _rewritten(artifacts["images", "onnx"], tmp_path / "broken", b"no graph")
    with pytest.raises(RunnerError, match=r"cannot run .*model\.onnx: .* no ONNX model"):
        open_runner(broken)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_graph_that_its_manifest_does_not_describe_is_refused(
    artifacts: dict[tuple[str, str], Artifact], tmp_path: Path, side: str
) -> None:
    sound = artifacts["images", "onnx"]
    spec = dataclasses.replace(getattr(sound.manifest, side), name="other")
    odd = _rewritten(sound, tmp_path / "odd", sound.model_path.read_bytes(), **{side: spec})
    with pytest.raises(RunnerError, match=r"reads \['image'\] and answers \['logits'\]; its manifest .*'other'"):
        open_runner(odd)


def test_a_module_of_ones_own_is_run_like_any_other(tmp_path: Path) -> None:
    task = images(Source())
    artifact = write_torch(tmp_path / "own", task, Architecture("tests.toys:dense", {"hidden": 4}))
    batch = task.splits["val"].inputs[:5]
    expected = predictor(load_module(artifact))(batch)
    np.testing.assert_allclose(open_runner(artifact)(batch), expected, atol=1e-6)
