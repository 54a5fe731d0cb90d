import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads than a shared core has make toy models slower, and sums differ by their order."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
