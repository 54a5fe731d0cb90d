"""S3, against a server process on loopback: moto speaks the protocol over HTTP and checks who signed each request."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from pyarrow.fs import S3FileSystem

from apps.launcher.ports import free_block, is_free
from tests.training.data.own_data import texts, write_images, write_jsonl
from training.data.location import open_location
from training.data.published import DataError, DataMissingError
from training.task import Source, load_task

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
IMAGES = {"height": 4, "width": 4, "channels": 1}
ALLOWED = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment that a user of the server needs."""
    port = free_block(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # After the three calls that make a user, every request must be signed with that user's keys.
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while is_free(port):
            assert server.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not listen"
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port}"
        yield {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1", **_make_user(address)}
    finally:
        server.terminate()
        server.wait(30)


def _make_user(address: str) -> dict[str, str]:
    nobody = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    iam = boto3.client("iam", endpoint_url=address, **nobody)
    iam.create_user(UserName="tandem")
    iam.put_user_policy(UserName="tandem", PolicyName="s3", PolicyDocument=json.dumps(ALLOWED))
    key = iam.create_access_key(UserName="tandem")["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.fixture
def endpoint(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return server["AWS_ENDPOINT_URL"]


def _upload(folder: Path, bucket: str, endpoint: str) -> str:
    """Every file of `folder`, as its address in a new bucket."""
    store = S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True)
    store.create_dir(bucket)
    for path in sorted(folder.rglob("*.*")):
        with store.open_output_stream(f"{bucket}/my sets/{path.relative_to(folder).as_posix()}") as stream:
            stream.write(path.read_bytes())
    return f"s3://{bucket}/my sets"


def test_images_on_s3_are_the_same_task_as_on_disk(tmp_path: Path, endpoint: str) -> None:
    write_images(tmp_path / "set")
    address = _upload(tmp_path / "set", "images", endpoint)
    cache = tmp_path / "cache"
    far = load_task("image_folder", Source(address, reader="local", cache_dir=cache), IMAGES)
    near = load_task("image_folder", Source(tmp_path / "set", reader="local", cache_dir=cache), IMAGES)
    assert far.data_hash == near.data_hash
    assert len(list(cache.iterdir())) == 2


def test_a_changed_object_is_read_again(tmp_path: Path, endpoint: str) -> None:
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(200))
    address = _upload(tmp_path / "set", "texts", endpoint)
    source = Source(address, reader="local", cache_dir=tmp_path / "cache")
    first = load_task("text_table", source, {"vocabulary_size": 300})
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(210))
    _upload(tmp_path / "set", "texts", endpoint)
    second = load_task("text_table", source, {"vocabulary_size": 300})
    assert sum(len(split) for split in first.splits.values()) == 200
    assert sum(len(split) for split in second.splits.values()) == 210


def test_ray_data_reads_s3_by_the_users_command(tmp_path: Path, endpoint: str) -> None:
    """With a cluster of its own, which inherits the keys; what is far away is read by Ray Data unasked."""
    write_images(tmp_path / "set", 600)
    address = _upload(tmp_path / "set", "many", endpoint)
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


def test_what_is_not_on_s3_is_said(tmp_path: Path, endpoint: str) -> None:
    write_jsonl(tmp_path / "set" / "a.jsonl", texts(1))
    _upload(tmp_path / "set", "present", endpoint)
    with pytest.raises(DataMissingError, match="there is nothing at s3://present/absent"):
        open_location("s3://present/absent")
    with pytest.raises(DataMissingError, match="there is nothing at s3://absent/set"):
        open_location("s3://absent/set")


def test_other_keys_are_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(DataError, match=r"s3://present/my sets cannot be read: .*ACCESS_DENIED"):
        open_location("s3://present/my sets")


def test_an_s3_that_does_not_answer_is_said(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_block(1)}")
    with pytest.raises(DataError, match=r"s3://bucket/x cannot be read: .*Check the address, the network and the cred"):
        open_location("s3://bucket/x")
