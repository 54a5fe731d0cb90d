import uuid
from pathlib import Path

import pytest

from tests.training.s3_server import make_bucket
from training.checkpoint.folder import Folder


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """One on a disk, one in fsspec's memory, which stands for its drivers, and one on S3."""
    if request.param == "disk":
        return Folder(str(tmp_path / "store"))
    if request.param == "memory":
        return Folder(f"memory://{tmp_path.name}")
    request.getfixturevalue("s3")
    bucket = uuid.uuid4().hex
    make_bucket(bucket)
    return Folder(f"s3://{bucket}/a training")
