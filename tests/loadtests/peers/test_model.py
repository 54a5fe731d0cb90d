from pathlib import Path

import numpy as np

from loadtests.peers.model import sample_images, write_model
from loadtests.peers.servers.session import open_session, run


def test_the_model_is_the_same_file_every_time(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "a.onnx"), write_model(tmp_path / "b.onnx")
    assert first.read_bytes() == second.read_bytes()


def test_the_model_tells_the_sample_images_apart(tmp_path: Path) -> None:
    """Else a server that answers the same to everything would pass the check of its answers."""
    logits = run(open_session(str(write_model(tmp_path / "model.onnx"))), sample_images(64))
    assert logits.shape == (64, 10)
    assert len(set(logits[:16].argmax(axis=1).tolist())) >= 3
    best = np.sort(logits, axis=1)
    assert (best[:, -1] - best[:, -2]).min() > 1e-3, "a class decided by rounding would make right servers look wrong"
