import json
import sys
from pathlib import Path

import numpy as np
import pytest

from optimization.evaluate import main
from tests.tiny import ENCODING, logits, write_tiny
from training import evaluate as training_evaluate
from training.evaluation.scores import evaluate
from training.registry import Registry
from training.task import SPLIT_NAMES, Source, Split, Task

pytestmark = pytest.mark.slow


def tiny_task(reference: str, source: Source, params: object = None) -> Task:
    """Random pixels; the brightest of the first three is the class, but for one row in five."""
    generator = np.random.default_rng(0)
    splits = {}
    for name in SPLIT_NAMES:
        pixels = generator.integers(0, 256, (90, 1, 2, 2), dtype=np.uint8)
        labels = pixels.reshape(90, 4)[:, :3].argmax(axis=1)
        splits[name] = Split(pixels, np.where(np.arange(90) % 5 == 0, (labels + 1) % 3, labels).astype(np.int64))
    return Task("tiny", ENCODING, splits)


def _run(monkeypatch: pytest.MonkeyPatch, uri: str, *arguments: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["optimization.evaluate", *arguments, "--threads", "1"])
    monkeypatch.setattr(training_evaluate, "load_task", tiny_task)


def test_a_graph_is_evaluated_by_its_own_runtime(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(mlflow_uri)
    with registry.start_run("tiny", "build", {}) as run:
        version = registry.publish("tiny_onnx", write_tiny(tmp_path / "a", "student-fp32", 0.0).folder, run, {})
    arguments = [version.reference, "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]
    _run(monkeypatch, mlflow_uri, *arguments)
    main()
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    val = tiny_task("", Source()).splits["val"]
    expected = evaluate(logits(val.inputs, 0.0), val.labels, ENCODING.labels)
    assert found["evaluation"]["accuracy"] == expected.accuracy
    assert found["evaluation"]["log_loss"] == pytest.approx(expected.log_loss, rel=1e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{version.reference} (student-fp32, onnx, fp32)" in page
    assert "not what it was trained on" in page
    with pytest.raises(SystemExit, match="which PyTorch does not run"):
        training_evaluate.main()
