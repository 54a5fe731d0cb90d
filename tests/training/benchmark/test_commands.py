"""The benchmarks as they are called, at a size that shows that they run and write what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TOY = "tests.toys:image_recipe"


def _run(module: str, *arguments: str, out: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments, "--out", str(out)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_checkpoints_cost_is_told_with_its_pairs(tmp_path: Path) -> None:
    said = _run("training.benchmark.checkpoints", TOY, "--pairs", "3", out=tmp_path)
    assert (tmp_path / "checkpoints.md").read_text() in said
    figures = json.loads((tmp_path / "checkpoints.json").read_text())
    assert len(figures["after_kept_s"]) == len(figures["beside_s"]) == 3
    assert figures["size_bytes"] > 1000
    assert "processor" in figures["machine"]


def test_a_pipeline_is_compared_with_its_model_and_a_heavier_one(tmp_path: Path) -> None:
    said = _run(
        "training.benchmark.loading", TOY, "--steps", "8", "--rounds", "2", "--case", "augmentation.rotate_degrees=20",
        out=tmp_path,
    )  # fmt: skip
    assert "augmentation.rotate_degrees=20" in said
    for rounds in json.loads((tmp_path / "loading.json").read_text())["rounds"].values():
        assert len(rounds) == 2
        assert all(one["pipeline"] > one["together"] * 0.5 > 0 and 0 <= one["idle"] <= 1 for one in rounds)


def test_scaling_is_told_beside_its_targets(tmp_path: Path) -> None:
    said = _run(
        "training.scaling", TOY, "--workers", "1,2", "--skip", "2", "--steps", "6", "--rounds", "1", out=tmp_path
    )  # fmt: skip
    runs = json.loads((tmp_path / "scaling.json").read_text())["runs"]
    assert [one["workers"] for number in ("1", "2") for one in runs[number]] == [1, 2]
    assert "efficiency: at least 85% wanted" in said
    assert "gpu utilization: at least 85% wanted, not measured: there is no GPU here" in said


def test_accuracies_of_several_calls_stand_on_one_page(tmp_path: Path) -> None:
    module = "training.benchmark.accuracy"
    _run(module, TOY, "--seeds", "0,1", "--set", "epochs=3", out=tmp_path)
    _run(module, TOY, "--set", "epochs=1", out=tmp_path)
    said = _run(module, TOY, "--set", "epochs=1", out=tmp_path)
    outcomes = json.loads((tmp_path / "accuracy.json").read_text())["outcomes"]
    assert [(one["seed"], one["epochs"]) for one in outcomes] == [(0, 3), (1, 3), (0, 1)]
    assert all(0 < one["correct"] <= one["rows"] and one["split"] == "gate" for one in outcomes)
    page = (tmp_path / "accuracy.md").read_text()
    assert page.count("| tests.toys:image_recipe | gate,") == 2
    assert said.count("| tests.toys:image_recipe | gate,") == 1
