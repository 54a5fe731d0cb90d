"""Each of these starts fresh Python processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optimization.measure.footprint import Footprint, FootprintError, _run, measure_footprint
from tests.tiny import write_graph, write_tiny
from training.artifact import Artifact

pytestmark = pytest.mark.slow
MEGABYTE = 2**20


def _wide(folder: Path, megabytes: int) -> Artifact:
    """The tiny model's reading through a matrix of `megabytes`, which a Runner has to hold."""
    from onnx import TensorProto, helper, numpy_helper

    width = megabytes * MEGABYTE // 4 // 4
    generator = np.random.default_rng(0)
    constants = {
        "flat": np.array([0, -1], np.int64),
        "wide": generator.normal(size=(4, width)).astype(np.float32),
        "narrow": np.ones((width, 3), np.float32) / width,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "wide"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "narrow"], ["logits"]),
        ],
        "wide",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return write_graph(folder, "wide", bytes(model.SerializeToString()))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model", "tiny", 1.0)


@pytest.fixture(scope="module")
def small(tiny: Artifact) -> Footprint:
    return measure_footprint(tiny.folder, batch_sizes=(1, 8), repeats=1)


def test_start_up_counts_the_runtimes_import_and_a_second_opening_does_not(tiny: Artifact, small: Footprint) -> None:
    assert small.size_bytes == tiny.size_bytes
    assert 0 < small.reopen_s < small.start_s < 60
    assert small.start_range_s == (small.start_s, small.start_s)
    assert small.peak_bytes > 5 * MEGABYTE, "the runtime's own code takes memory"
    assert Footprint.from_json(small.to_json()) == small


def test_memory_grows_with_the_model_and_one_more_copy_costs_its_weights(tmp_path: Path, small: Footprint) -> None:
    wide = measure_footprint(_wide(tmp_path / "wide", 48).folder, batch_sizes=(1,), repeats=1)
    assert wide.peak_bytes - small.peak_bytes > 60 * MEGABYTE  # 48 MB and the 36 MB that lead out of it
    assert small.copy_bytes < 8 * MEGABYTE < 40 * MEGABYTE < wide.copy_bytes


def test_what_the_parent_process_holds_does_not_count(tiny: Artifact, small: Footprint) -> None:
    """A child's ru_maxrss starts at what its parent held when it forked; its own peak does not."""
    script = f"""
import numpy as np
from pathlib import Path
from optimization.measure.footprint import measure_footprint
ballast = np.ones(400 * {MEGABYTE}, dtype=np.uint8)
print(measure_footprint(Path({str(tiny.folder)!r}), batch_sizes=(1,), repeats=1).peak_bytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < small.peak_bytes + 50 * MEGABYTE


def test_a_runner_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    broken = write_graph(tmp_path / "broken", "broken", b"no graph")
    with pytest.raises(FootprintError, match=r"failed in a fresh process: .*no ONNX model"):
        measure_footprint(broken.folder, repeats=1)


def test_the_median_of_several_processes_is_told_with_its_range(
    tiny: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _run(tiny.folder, 1, (1,))
    readings = iter(
        [first.__class__(**{**first.__dict__, "start_s": s, "peak_bytes": b}) for s, b in ((3, 9), (1, 7), (2, 8))]
    )
    monkeypatch.setattr("optimization.measure.footprint._run", lambda *arguments: next(readings))
    found = measure_footprint(tiny.folder, repeats=3)
    assert (found.start_s, found.start_range_s, found.peak_bytes) == (2, (1, 3), 8)
    with pytest.raises(ValueError, match="0 repeats"):
        measure_footprint(tiny.folder, repeats=0)
