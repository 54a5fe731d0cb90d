"""What a replica loads: verified Artifacts, warm, and no code that a registry names."""

from pathlib import Path

import pytest

from apps.batching.batcher import BatchLimits
from apps.load import ModelSource, open_batcher
from tests.tiny import write_tiny
from tests.toys import images, write_torch
from training.artifact import Artifact, ArtifactError
from training.models.architecture import Architecture
from training.registry import Version
from training.task import Source

VERSION = Version("tiny", 1, "d" * 64, "run", {})


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModelSource:
    """A registry that hands out the folder `fetched`."""

    class Fetched:
        def __init__(self, tracking_uri: str) -> None: ...

        def fetch(self, version: Version, cache_dir: Path) -> Path:
            return tmp_path / "fetched"

    monkeypatch.setattr("apps.load.Registry", Fetched)
    return ModelSource(VERSION, "http://127.0.0.1:1", str(tmp_path), BatchLimits(4, 8), threads=1)


def test_an_onnx_artifact_is_loaded_and_warm(source: ModelSource, tmp_path: Path) -> None:
    written = write_tiny(tmp_path / "fetched", "student", 0.0)
    assert isinstance(source.fetch(), Artifact)
    assert source.fetch().digest == written.digest
    assert open_batcher(source.fetch(), source) is not None


def test_a_built_in_pytorch_model_is_loaded(source: ModelSource, tmp_path: Path) -> None:
    write_torch(tmp_path / "fetched", images(Source()), Architecture("convnet", {"widths": [4]}))
    assert source.fetch().manifest.format == "torch"


def test_a_pytorch_model_that_names_code_is_refused_before_it_runs(source: ModelSource, tmp_path: Path) -> None:
    write_torch(tmp_path / "fetched", images(Source()), Architecture("tests.toys:dense"))
    with pytest.raises(ArtifactError, match=r"tiny@1 would run the code 'tests\.toys:dense': export it to ONNX"):
        source.fetch()
