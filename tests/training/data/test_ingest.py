"""Ray Data and this process read the same rows. On the live cluster, by the command that a user has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps.launcher.local import ROOT, LocalCluster
from tests.training.data.own_data import png, texts, write_images, write_jsonl
from training.data.ingest import inside_a_worker

pytestmark = pytest.mark.cluster
SETTINGS = {
    "image_folder": ["height=4", "width=4", "channels=1", "max_skipped=0.1"],
    "text_table": ["max_tokens=16", "vocabulary_size=300", "max_skipped=0.1"],
}


def _run(task: str, location: Path, reader: str, cache: Path, *settings: str) -> "subprocess.CompletedProcess[str]":
    chosen = [f"--set={setting}" for setting in (*SETTINGS[task], *settings)]
    places = [f"--data-dir={location}", f"--data-cache={cache}", f"--reader={reader}"]
    command = [sys.executable, "-m", "training.task", task, *places, *chosen]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _packed(cache: Path) -> dict[str, bytes]:
    """Every packed file by its path."""
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def _images(folder: Path) -> Path:
    """More files than one task reads, some of which are no images."""
    write_images(folder, 600)
    for number in range(0, 600, 60):
        (folder / "cat" / f"{number:05}x.png").write_bytes(png(number)[:40])
    return folder


def _texts(folder: Path) -> Path:
    for number in range(5):
        write_jsonl(folder / f"{number}.jsonl", [*texts(80, 80 * number), {"text": "", "label": "cat"}])
    return folder


@pytest.mark.parametrize(("task", "write"), [("image_folder", _images), ("text_table", _texts)])
def test_ray_data_packs_the_same_bytes(cluster: LocalCluster, tmp_path: Path, task: str, write: object) -> None:
    assert callable(write)
    location = write(tmp_path / "set")
    for reader in ("local", "ray"):
        made = _run(task, location, reader, tmp_path / reader)
        assert made.returncode == 0, made.stderr
    here, there = _packed(tmp_path / "local"), _packed(tmp_path / "ray")
    assert here == there
    facts = json.loads(next(content for path, content in here.items() if path.endswith("packed.json")))
    assert sum(facts["skipped"].values()) == (10 if task == "image_folder" else 5)


def test_what_cannot_be_read_on_is_said_in_one_line(cluster: LocalCluster, tmp_path: Path) -> None:
    _texts(tmp_path / "set")
    (tmp_path / "set" / "3.jsonl").rename(tmp_path / "set" / "torn.jsonl.gz")
    made = _run("text_table", tmp_path / "set", "ray", tmp_path / "cache")
    assert made.returncode == 1
    assert made.stderr.strip().splitlines()[-1].startswith("training.task: torn.jsonl.gz in ")
    assert "Traceback" not in made.stderr


IN_A_WORKER = """
import ray
from training.data.ingest import inside_a_worker
ray.init(log_to_driver=False)
print(inside_a_worker(), ray.get(ray.remote(num_cpus=0)(inside_a_worker).remote()))
"""


def test_a_worker_of_ray_knows_that_it_is_one(cluster: LocalCluster) -> None:
    assert not inside_a_worker()
    made = subprocess.run([sys.executable, "-c", IN_A_WORKER], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["False", "True"]
