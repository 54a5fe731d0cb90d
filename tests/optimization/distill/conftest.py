"""The toy that students of these tests learn, and their teacher."""

import pytest

from tests.optimization.distill.lessons import CONVNET, write_teacher
from tests.toys import images
from training.artifact import Artifact
from training.task import Source, Task


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


@pytest.fixture(scope="module")
def teacher(toy: Task, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_teacher(tmp_path_factory.mktemp("t"), toy, CONVNET)
