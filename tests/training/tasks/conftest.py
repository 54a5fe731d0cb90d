import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the published sets, for tests that read them; skips where there is none."""
    repository = Path(__file__).parents[3]
    folder = Path(os.environ.get("TANDEM_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the published data sets: {folder} is absent (TANDEM_DATA names another folder)")
    return folder
