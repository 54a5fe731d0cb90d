from pathlib import Path

import numpy as np

from optimization.measure.batches import as_served, parity_lengths, sample_batch
from tests import toys
from tests.tiny import write_tiny
from training.task import Source


def test_texts_are_timed_at_the_length_that_a_server_pads_them_to() -> None:
    task = toys.texts(Source())
    long = np.zeros((3, toys.TEXTS.max_tokens + 4), np.int64)
    long[:, :2], long[1, :5] = 3, 3
    assert as_served(task.encoding, long).tolist() == long[:, :5].tolist()
    images = toys.images(Source())
    rows = images.splits["report"].inputs[:2]
    assert as_served(images.encoding, rows) is rows


def test_parity_is_looked_at_in_half_length_for_texts_alone() -> None:
    texts, images = toys.texts(Source()), toys.images(Source())
    assert parity_lengths(texts.encoding, np.zeros((3, 9), np.int64)) == (4,)
    assert parity_lengths(texts.encoding, np.zeros((3, 1), np.int64)) == (1,)
    assert parity_lengths(images.encoding, images.splits["gate"].inputs) == ()


def test_a_sample_batch_is_what_the_model_reads(tmp_path: Path) -> None:
    artifact = write_tiny(tmp_path / "tiny", "student", 1.0)
    batch = sample_batch(artifact, 5)
    assert artifact.manifest.input.admits(batch.shape) and batch.dtype == np.uint8
    assert len(batch) == 5 and batch.std() > 0
