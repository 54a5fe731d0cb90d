from collections.abc import Iterator

import pytest

from tests.training.parallel.crew import Crew


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    started = Crew(size=4)
    yield started
    started.dismiss()
