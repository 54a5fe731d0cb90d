"""docs/data.md keeps its word: its commands run as they stand, one after another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.readme import README, blocks

ROOT = README.parent
PAGE = ROOT / "docs" / "data.md"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_page_runs(mlflow_uri: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": mlflow_uri}
    run = [block for block in blocks(PAGE) if block.language]
    assert [block.language for block in run] == ["python", "bash", "bash", "python", "bash"]
    said = []
    for block in run:
        text = block.text if block.language == "bash" else f"python - <<'EOF'\n{block.text}EOF"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        said.append(done.stdout)
    assert "image_folder: 1059 train, 145 val, 197 calibration, 217 gate, 179 report" in said[1]
    assert "registered image_folder@1 (alias candidate)" in said[2]
    assert len(list((tmp_path / ".tandem" / "data").iterdir())) == 2  # of each source one: it was read once
    versions = MlflowClient(mlflow_uri).search_model_versions("name='image_folder'")
    assert {version.tags["tandem.variant"] for version in versions} >= {"teacher", "student"}
    assert {version.tags["tandem.task_params"] for version in versions} == {
        '{"height": 8, "width": 8, "channels": 1, "margin": 0.1}'
    }
