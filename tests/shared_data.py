"""Where published data and weights lie that some tests read: beside the project, or as the environment says."""

import os
from pathlib import Path

import pytest


def data_folder() -> Path:
    """../shared/data, or TANDEM_DATA. Skips the test that asks where there is no such folder."""
    folder = Path(os.environ.get("TANDEM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no published data at {folder}; set TANDEM_DATA to the folder that holds it")
    return folder


def weights_folder() -> Path:
    """../shared/weights, or TANDEM_WEIGHTS. Skips the test that asks where there is no such folder."""
    folder = Path(os.environ.get("TANDEM_WEIGHTS") or Path(__file__).resolve().parents[2] / "shared" / "weights")
    if not folder.is_dir():
        pytest.skip(f"no published weights at {folder}; set TANDEM_WEIGHTS to the folder that holds them")
    return folder
