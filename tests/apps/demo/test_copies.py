"""A teacher that looks at many copies of an image answers with their mean."""

import numpy as np
import pytest

from apps.demo.copies import averaged_over_copies, resampling
from optimization.runner import open_runner
from tests.tiny import write_tiny
from training.artifact import write_artifact


def test_the_first_copy_is_the_image_and_no_copy_is_brighter():
    weights = resampling(8, 8, 20)
    assert np.array_equal(weights[:, :64], np.eye(64, dtype=np.float32))
    assert weights.min() >= 0
    assert weights.sum(axis=0).max() <= 1 + 1e-5


def test_the_copies_differ_by_little():
    image_P = np.outer(np.hanning(10)[1:-1], np.hanning(10)[1:-1]).ravel().astype(np.float32)
    copies_KP = (image_P @ resampling(8, 8, 50)).reshape(50, 64)
    # Each is the picture moved by less than a pixel or so: still like it, and still as bright.
    for copy_P in copies_KP:
        assert np.corrcoef(copy_P, image_P)[0, 1] > 0.7
        assert copy_P.sum() == pytest.approx(image_P.sum(), rel=0.3)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_graph_answers_with_the_mean_of_the_teachers_answers(tmp_path, batch):
    copies = 7
    teacher = write_tiny(tmp_path / "teacher", "teacher", 1.0)
    manifest = {name: getattr(teacher.manifest, name) for name in type(teacher.manifest).__dataclass_fields__}
    del manifest["files"]
    slow = write_artifact(tmp_path / "slow", {"model.onnx": averaged_over_copies(teacher, copies)}, **manifest)
    images_BCHW = np.random.default_rng(0).integers(0, 256, (batch, 1, 2, 2), dtype=np.uint8)
    moved = images_BCHW.reshape(batch, 4).astype(np.float32) @ resampling(2, 2, copies)
    moved_BCHW = np.clip(np.round(moved), 0, 255).astype(np.uint8).reshape(batch * copies, 1, 2, 2)
    expected = open_runner(teacher)(moved_BCHW).reshape(batch, copies, 3).mean(axis=1)
    np.testing.assert_allclose(open_runner(slow)(images_BCHW), expected, atol=1e-5)
