import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toys import images, write_torch
from training.artifact import ArtifactError, write_artifact
from training.models.architecture import Architecture, build
from training.module import load_module, predictor
from training.task import Source, Task

NET = Architecture("convnet", {"widths": [4, 8], "dropout": 0.5})


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


def test_an_artifacts_module_answers_as_the_one_it_was_written_from(tmp_path: Path, toy: Task) -> None:
    loaded = load_module(write_torch(tmp_path / "a", toy, NET, seed=5))
    torch.manual_seed(5)
    original = build(NET, toy.encoding).eval()
    batch = torch.from_numpy(toy.splits["val"].inputs[:6])
    assert not loaded.training
    assert torch.equal(loaded(batch), original(batch))


def _rewritten(folder: Path, toy: Task, content: bytes, **changes: object) -> None:
    manifest = write_torch(folder / "sound", toy, NET).manifest
    about = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(manifest) if f.name != "files"}
    load_module(write_artifact(folder / "odd", {"model.safetensors": content}, **{**about, **changes}))


def test_weights_of_another_architecture_are_refused(tmp_path: Path, toy: Task) -> None:
    content = write_torch(tmp_path / "other", toy, Architecture("convnet", {"widths": [4, 16]})).model_path.read_bytes()
    with pytest.raises(ArtifactError, match=r"(?s)the weights of toy_images .* do not fit it: .*size mismatch"):
        _rewritten(tmp_path, toy, content)


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path, toy: Task) -> None:
    with pytest.raises(ArtifactError, match=r"the weights of toy_images .* do not fit it"):
        _rewritten(tmp_path, toy, b"pickle, perhaps")


def test_an_onnx_artifact_has_no_module(tmp_path: Path, toy: Task) -> None:
    manifest = write_torch(tmp_path / "sound", toy, NET).manifest
    about = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(manifest) if f.name != "files"}
    artifact = write_artifact(tmp_path / "onnx", {"model.onnx": b"x"}, **{**about, "format": "onnx"})
    with pytest.raises(ArtifactError, match="is onnx: it has no PyTorch module"):
        load_module(artifact)


def test_a_predictor_reads_request_bytes_and_keeps_no_gradient(tmp_path: Path, toy: Task) -> None:
    predict = predictor(load_module(write_torch(tmp_path / "a", toy, NET)))
    batch = toy.splits["val"].inputs[:4]
    read_only = np.frombuffer(batch.tobytes(), np.uint8).reshape(batch.shape)
    logits = predict(read_only)
    assert logits.dtype == np.float32
    assert logits.shape == (4, 3)
    assert (logits == predict(batch)).all()
