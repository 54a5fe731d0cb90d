import sys
from collections.abc import Iterator

import pytest

from tests.training.s3_server import s3_server


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads than a shared core has make toy models slower, and sums differ by their order."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def _s3_environment() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3(_s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an S3 server, whose user this process and those that it starts are."""
    for name, value in _s3_environment.items():
        monkeypatch.setenv(name, value)
    return _s3_environment["AWS_ENDPOINT_URL"]
