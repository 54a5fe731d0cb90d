from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimization.runners import aot_inductor
from optimization.runners.aot_inductor import AotInductorRunner
from optimization.runners.contract import BackendUnavailableError, RunnerError
from optimization.runners.eager import TorchRunner
from optimization.runners.native_cache import NativeCache
from optimization.runners.open import why_unavailable
from tests.toys import VOCABULARY, images, texts, write_torch
from training.artifact import Artifact
from training.models.architecture import Architecture
from training.task import Source

LACKING = why_unavailable("aot-inductor")
needs_compiler = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
RECURRENT = Architecture("lstm", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4})


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    architecture = Architecture("tests.toys:dense", {"hidden": 4})
    return write_torch(tmp_path_factory.mktemp("dense") / "a", images(Source()), architecture)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "native"


@needs_compiler
@pytest.mark.slow
def test_a_package_is_compiled_once_and_again_when_it_is_corrupt(
    dense: Artifact, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []
    build = aot_inductor._build

    def counted(*arguments: Any) -> None:
        builds.append(arguments)
        build(*arguments)

    monkeypatch.setattr(aot_inductor, "_build", counted)
    batch = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4)).astype(np.uint8)
    expected = TorchRunner(dense)(batch)
    for _ in range(2):
        np.testing.assert_allclose(AotInductorRunner(dense, cache=NativeCache(native))(batch), expected, atol=1e-4)
    assert len(builds) == 1
    (package,) = native.glob("*/model.pt2")
    package.write_bytes(package.read_bytes()[:-20] + bytes(20))
    np.testing.assert_allclose(AotInductorRunner(dense, cache=NativeCache(native))(batch), expected, atol=1e-4)
    assert len(builds) == 2


@needs_compiler
def test_the_threads_are_a_part_of_the_key(dense: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys: list[str] = []

    class Stop(Exception):  # noqa: N818
        pass

    def ask(self: NativeCache, key: str, build: object) -> Path:
        keys.append(key)
        raise Stop

    monkeypatch.setattr(NativeCache, "get_or_build", ask)
    for threads in (1, 2, 1):
        with pytest.raises(Stop):
            AotInductorRunner(dense, threads=threads, cache=NativeCache(tmp_path))
    torch.set_num_threads(1)
    assert keys[0] == keys[2] != keys[1]


@needs_compiler
@pytest.mark.slow
def test_a_network_that_unrolls_to_one_length_is_refused(tmp_path: Path) -> None:
    artifact = write_torch(tmp_path / "lstm", texts(Source()), RECURRENT)
    with pytest.raises(RunnerError, match=r"AOTInductor cannot compile .*torch\.export failed"):
        AotInductorRunner(artifact, cache=NativeCache(tmp_path / "native"))
    assert not list((tmp_path / "native").glob("[!.]*"))


def test_without_a_compiler_it_is_unavailable_and_says_what_to_install(
    dense: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=r"finds none of g\+\+, clang\+\+, c\+\+: install one"):
        AotInductorRunner(dense, cache=NativeCache(tmp_path / "native"))


def test_a_package_that_answers_otherwise_than_its_module_is_refused(dense: Artifact) -> None:
    from training.module import load_module

    module, spec = load_module(dense), dense.manifest.input
    with torch.inference_mode():
        aot_inductor._require_parity(module, lambda inputs: [module(inputs[0])], spec, None)
    for wrong in (lambda inputs: [module(inputs[0]) + 0.1], lambda inputs: [module(inputs[0]) * torch.nan]):
        with pytest.raises(RunnerError, match=r"answers 1 rows with logits .* away from the module's"):
            aot_inductor._require_parity(module, wrong, spec, None)


def test_a_fault_that_shows_at_another_size_is_found(dense: Artifact) -> None:
    from training.module import load_module

    module, spec = load_module(dense), dense.manifest.input
    with pytest.raises(RunnerError, match="answers 3 rows"):
        aot_inductor._require_parity(module, lambda inputs: [module(inputs[0]) + float(len(inputs[0]) > 1)], spec, None)
