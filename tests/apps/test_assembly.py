"""One model's Service, put together without Serve: the teacher is a handle that nobody calls."""

from pathlib import Path
from typing import Any

import pytest

from apps.args import ModelArgs
from apps.assembly import Assembled, Office, Part, assemble_model
from apps.batching.batcher import BatchLimits
from apps.load import ModelSource
from apps.observe.exporter import Exporter
from apps.observe.request_log import open_request_log
from apps.observe.tracing import NoTracing
from tests.apps.test_graph import plan
from tests.tiny import write_tiny
from training.artifact import load_artifact
from training.registry import Version


class Told:
    """A sink that keeps the gauges."""

    def __init__(self) -> None:
        self.gauges: list[tuple[str, dict[str, str]]] = []

    def grow(self, name: str, description: str, tags: Any, amount: float) -> None: ...

    def set(self, name: str, description: str, tags: Any, value: float) -> None:
        self.gauges.append((name, dict(tags)))


def _assembled(folder: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch, **args: Any) -> Assembled:
    write_tiny(folder, "student-fp32", 0.0)
    monkeypatch.setattr(ModelSource, "fetch", lambda self: load_artifact(folder))
    version = Version("digits", 2, "s", "run", {})
    source = ModelSource(version, "http://127.0.0.1:1", str(folder), BatchLimits(4, 8), threads=1)
    office = Office(exporter, open_request_log(None, "replica"), NoTracing())
    handles: Any = iter([object(), object()])
    return assemble_model(Part(ModelArgs(**args), (plan(7),), (source,)), handles, office)


def test_a_student_of_the_ingress_says_what_it_really_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    exporter = Exporter(told)
    made = _assembled(tmp_path / "student", exporter, monkeypatch)
    (release,) = made.service.about["releases"]
    assert release["student_runs_on"] == {"device": "cpu", "precision": "fp32"}
    exporter.flush()
    (tags,) = (tags for name, tags in told.gauges if name == "tandem_runner_info")
    assert tags == {"model": "digits", "version": "7", "role": "student", "device": "cpu", "precision": "fp32"}
    for batcher in made.batchers:
        batcher.close()


def test_of_a_student_elsewhere_the_ingress_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _assembled(tmp_path / "student", Exporter(Told()), monkeypatch, student_placement="deployment")
    assert made.batchers == ()
    assert made.service.about["releases"][0]["student_runs_on"] is None
