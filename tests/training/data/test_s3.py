"""Data of one's own on S3, against a server process on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from apps.launcher.ports import free_block
from tests.training.data.own_data import texts, write_images, write_jsonl
from tests.training.s3_server import make_bucket
from training.data.location import open_location
from training.data.published import DataError, DataMissingError
from training.task import Source, load_task

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
IMAGES = {"height": 4, "width": 4, "channels": 1}


def _upload(folder: Path, bucket: str, endpoint: str) -> str:
    """Every file of `folder`, as its address in a new bucket."""
    make_bucket(bucket)
    store = S3FileSystem(endpoint_override=endpoint)
    for path in sorted(folder.rglob("*.*")):
        with store.open_output_stream(f"{bucket}/my sets/{path.relative_to(folder).as_posix()}") as stream:
            stream.write(path.read_bytes())
    return f"s3://{bucket}/my sets"


def test_images_on_s3_are_the_same_task_as_on_disk(tmp_path: Path, s3: str) -> None:
    write_images(tmp_path / "set")
    address = _upload(tmp_path / "set", "images", s3)
    cache = tmp_path / "cache"
    far = load_task("image_folder", Source(address, reader="local", cache_dir=cache), IMAGES)
    near = load_task("image_folder", Source(tmp_path / "set", reader="local", cache_dir=cache), IMAGES)
    assert far.data_hash == near.data_hash
    assert len(list(cache.iterdir())) == 2


def test_a_changed_object_is_read_again(tmp_path: Path, s3: str) -> None:
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(200))
    address = _upload(tmp_path / "set", "texts", s3)
    source = Source(address, reader="local", cache_dir=tmp_path / "cache")
    first = load_task("text_table", source, {"vocabulary_size": 300})
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(210))
    _upload(tmp_path / "set", "texts", s3)
    second = load_task("text_table", source, {"vocabulary_size": 300})
    assert sum(len(split) for split in first.splits.values()) == 200
    assert sum(len(split) for split in second.splits.values()) == 210


def test_ray_data_reads_s3_by_the_users_command(tmp_path: Path, s3: str) -> None:
    """With a cluster of its own, which inherits the keys; what is far away is read by Ray Data unasked."""
    write_images(tmp_path / "set", 600)
    address = _upload(tmp_path / "set", "many", s3)
    near = load_task("image_folder", Source(tmp_path / "set", reader="local", cache_dir=tmp_path / "near"), IMAGES)
    settings = [f"--set={name}={value}" for name, value in IMAGES.items()]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    made = subprocess.run(
        [sys.executable, "-m", "training.task", "image_folder", f"--data-dir={address}", *settings,
         f"--data-cache={tmp_path / 'far'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "Started a local Ray instance" in made.stderr
    far = load_task("image_folder", Source(address, reader="local", cache_dir=tmp_path / "far"), IMAGES)
    assert len(list((tmp_path / "far").iterdir())) == 1  # what the command packed
    assert far.data_hash == near.data_hash


def test_what_is_not_on_s3_is_said(tmp_path: Path, s3: str) -> None:
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(1))
    _upload(tmp_path / "set", "present", s3)
    with pytest.raises(DataMissingError, match="there is nothing at s3://present/absent"):
        open_location("s3://present/absent")
    with pytest.raises(DataMissingError, match="there is nothing at s3://absent/set"):
        open_location("s3://absent/set")


def test_other_keys_are_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(DataError, match=r"s3://present/my sets cannot be read: .*ACCESS_DENIED"):
        open_location("s3://present/my sets")


def test_an_s3_that_does_not_answer_is_said(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_block(1)}")
    with pytest.raises(DataError, match=r"s3://bucket/x cannot be read: .*Check the address, the network and the cred"):
        open_location("s3://bucket/x")
