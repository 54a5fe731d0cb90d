"""The published data sets, where this machine has them."""

from pathlib import Path

import pytest

from tests.shared_data import data_folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    return data_folder()
