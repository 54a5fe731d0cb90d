"""Where the published data sets lie that some tests read: ../shared/data beside the project, or TANDEM_DATA."""

import os
from pathlib import Path

import pytest


def data_folder() -> Path:
    """Skips the test that asks where there is no such folder."""
    folder = Path(os.environ.get("TANDEM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no published data at {folder}; set TANDEM_DATA to the folder that holds it")
    return folder
