"""A whole search on one live cluster, by the command that a user runs: killed, gone on with, asked again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from apps.launcher.local import LocalCluster
from optimization.release import endpoint_name, load_release
from optimization.runners.open import open_runner
from optimization.search.book import Book
from training.artifact import load_artifact
from training.launch.job import Compute
from training.recipes import load_recipe
from training.registry import Registry
from training.task import Source, load_task
from training.train import train

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
TEACHER = "tests.toys:digits_recipe"
MODEL = "toy_digits"
# One of three prunings takes nothing out: every width of so small a model rounds to itself.
SPACE = """
distill: [null, {student: "tests.toys:digits_recipe_student"}]
prune: [null, {amount: 0.4, fine_tune: {epochs: 2}}, {amount: 0.01, round_to: 64}]
quantize: [{kind: none}, {kind: static_int8}]
"""


class Search:
    """`python -m optimization.search ...`, and what it left behind."""

    def __init__(self, folder: Path, cluster: LocalCluster, reference: str) -> None:
        self._environment = {**cluster.environment, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        (folder / "space.yaml").write_text(SPACE)
        self._command = [
            sys.executable, "-m", "optimization.search", reference, "--space", str(folder / "space.yaml"),
            "--name", "toy", "--storage", str(folder), "--cache-dir", str(folder / "cache"),
            "--max-accuracy-drop", "12",
        ]  # fmt: skip
        self.book = Book(folder / "toy")
        self.out = folder / "search.out"

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        with self.out.open("wb") as out:
            return subprocess.Popen(
                [*self._command, *more], env=self._environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def run(self, *more: str) -> int:
        process = self.start(*more)
        try:
            return process.wait(400)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def registry(cluster: LocalCluster) -> Registry:
    return Registry(cluster.tracking_uri)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, cluster: LocalCluster, registry: Registry) -> Iterator[Search]:
    """One that was killed as soon as three pipelines of its first rung were over."""
    folder = tmp_path_factory.mktemp("search")
    version = train(TEACHER, load_recipe(TEACHER), Source(), registry, Compute(local=True, storage=str(folder / "t")))
    search = Search(folder, cluster, version.reference)
    process = search.start()
    try:
        deadline = time.monotonic() + 240
        while len(search.book.results(1)) < 3:
            assert process.poll() is None, search.out.read_text()
            assert time.monotonic() < deadline, search.out.read_text()
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    yield search


@pytest.fixture(scope="module")
def done(killed: Search) -> Search:
    before = killed.book.results(1)
    assert killed.run() == 0, killed.out.read_text()
    assert {number: killed.book.results(1)[number] for number in before} == before, "nothing is found out twice"
    return killed


def test_every_pipeline_is_accounted_for_and_half_go_on(done: Search) -> None:
    first, last = done.book.results(1), done.book.results(2)
    assert sorted(first) == list(range(1, 13))
    failed = {number for number, one in first.items() if one.made is None}
    assert len(failed) == 4
    assert all("nothing is taken out" in first[number].error for number in failed)
    assert set(last) <= set(first) - failed
    assert len(last) >= 4
    assert "cannot be carried out: nothing is taken out" in done.out.read_text()


def test_a_training_is_shared_by_the_pipelines_that_need_it(done: Search) -> None:
    trained = [one.made for one in done.book.results(1).values() if one.made and "distilling" in one.made.stages]
    assert len(trained) >= 4
    assert sum("distilling" not in made.reused for made in trained) <= 1, "once, or before the kill"


def test_what_does_not_train_is_made_once_for_all_rungs(done: Search) -> None:
    first, last = done.book.results(1), done.book.results(2)
    untrained = [number for number in last if first[number].made and first[number].made.stages[0] == "exporting"]
    assert untrained
    for number in untrained:
        made = last[number].made
        assert made is not None
        assert made.reused == made.stages, "all of it"
        assert made.digest == first[number].made.digest  # type: ignore[union-attr]


def test_every_point_of_the_front_can_be_served_and_the_chosen_one_is_the_candidate(
    done: Search, registry: Registry, tmp_path: Path
) -> None:
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    run = client.get_run(done.book.run_id)
    assert run.info.status == "FINISHED"
    task = load_task("tests.toys:digits", Source())
    labels, rows = task.splits["gate"].labels, task.splits["gate"].inputs
    front = client.search_model_versions(f"name = '{MODEL}' and tags.`tandem.front` = 'true'")
    assert front
    for entity in front:
        version = registry.resolve(f"{MODEL}@{entity.version}")
        artifact = load_artifact(registry.fetch(version, tmp_path))
        accuracy = float((open_runner(artifact)(rows).argmax(axis=1) == labels).mean())
        assert accuracy == pytest.approx(float(version.tags["tandem.gate_accuracy"]), abs=1e-4)
        assert registry.list_artifacts(version.run_id, f"measurements/{version.digest[:16]}")
    chosen = registry.resolve(f"{endpoint_name(MODEL)}@candidate")
    release = load_release(registry.fetch(chosen, tmp_path))
    student = registry.resolve(f"{release.student.name}@{release.student.number}")
    assert student.tags["tandem.search"] == "toy"
    assert chosen.reference in done.out.read_text()
    page = registry.read_artifact(done.book.run_id, "search.html").decode()
    assert chosen.reference in page and "const points = [{" in page


def test_other_limits_choose_anew_and_make_nothing(done: Search, registry: Registry) -> None:
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)

    def count() -> int:
        return len(client.search_model_versions(f"name = '{MODEL}'"))

    before = count()
    assert done.run("--max-accuracy-drop", "12", "--max-p95-ms", "0.000001") == 1
    assert "none of" in done.out.read_text() and "p95 of one row is" in done.out.read_text()
    assert "rung" not in done.out.read_text().replace("after rung", "")
    assert count() == before


def test_another_search_does_not_take_its_place(done: Search) -> None:
    assert done.run("--threads", "2") == 1
    assert "threads was 1 and is 2" in done.out.read_text()
