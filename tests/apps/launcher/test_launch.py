"""The steps of a launch, with small programs in the place of the real ones."""

import io
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from apps.launcher.champion import Champion
from apps.launcher.launch import Commands, Launch
from apps.launcher.process import ProcessError
from apps.launcher.stages import Stages

REPORT = {"summary": {"requests": 200, "failed": 3, "latency_ms": {"p50": 4.0, "p95": None}}}


@dataclass
class Cluster:
    """Of a LocalCluster, what these steps look at."""

    state_dir: Path
    tracking_uri: str = "http://127.0.0.1:1"

    @property
    def ray(self):
        front = SimpleNamespace(notes=["served by a [slower] front end"])
        return SimpleNamespace(dashboard_url="http://127.0.0.1:8265", front=front)

    @property
    def log_dir(self):
        return self.state_dir

    @property
    def environment(self):
        return dict(os.environ)


@pytest.fixture
def launch(tmp_path):
    stages = Stages(Console(file=io.StringIO(), width=200))
    commands = Commands.of("digits", tmp_path)
    return Launch(Cluster(tmp_path), stages, commands, "digits", 8000, registry_timeout_s=10.0)


def with_program(launch, step, code):
    return replace(launch, commands=replace(launch.commands, **{step: [sys.executable, "-c", code]}))


def said(launch):
    return launch.stages.console.file.getvalue()


def test_the_champion_is_what_the_last_line_says(launch):
    told = with_program(launch, "champion", """print('chatter'); print('{"release": "digits.endpoint@3"}')""")
    assert told.find_champion() == Champion("digits.endpoint@3")
    assert with_program(launch, "champion", "print('null')").find_champion() is None


def test_a_registry_that_cannot_be_read_is_named_with_the_reason(launch):
    with pytest.raises(ProcessError, match=r"could not be read(?s:.*)no such host(?s:.*)MLFLOW_TRACKING_URI"):
        with_program(launch, "champion", "raise SystemExit('no such host')").find_champion()


def test_a_registry_that_does_not_answer_is_not_waited_for_for_ever(launch):
    silent = with_program(replace(launch, registry_timeout_s=0.2), "champion", "import time; time.sleep(60)")
    with pytest.raises(ProcessError, match=r"127.0.0.1:1 did not answer within(?s:.*)MLFLOW_TRACKING_URI"):
        silent.find_champion()


def test_what_is_not_as_it_should_be_is_said_with_the_addresses(launch):
    launch.show(Champion("digits.endpoint@3"), "curl it")
    assert "! served by a [slower] front end" in said(launch)
    assert "http://127.0.0.1:8265" in said(launch)


def load_test(launch, status, writes=True):
    folder = launch.cluster.state_dir / "loadtest"
    folder.mkdir(exist_ok=True)
    write = f"open({str(folder / 'slo.json')!r}, 'w').write({json.dumps(json.dumps(REPORT))})" if writes else "pass"
    with_program(launch, "load_test", f"{write}; raise SystemExit({status})").load_test()


def test_a_missed_objective_is_said_and_not_fatal(launch):
    load_test(launch, status=1)
    assert "200 requests, 3 failed, p50 4.0 ms, p95 never" in said(launch)
    assert "missed" in said(launch)


def test_a_met_objective_needs_no_comment(launch):
    load_test(launch, status=0)
    assert "200 requests" in said(launch)
    assert "!" not in said(launch)


@pytest.mark.parametrize("status", [1, 2])
def test_a_load_test_that_fails_to_run_does_not_show_the_figures_of_an_earlier_one(launch, status):
    (launch.cluster.state_dir / "loadtest").mkdir()
    (launch.cluster.state_dir / "loadtest" / "slo.json").write_text(json.dumps(REPORT))
    load_test(launch, status, writes=False)
    assert "200 requests" not in said(launch)
    assert "could not be run" in said(launch)


def test_the_data_folder_is_found_from_wherever_the_programs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert f"--data-dir={tmp_path / 'sets'}" in Commands.of("fashion_mnist", tmp_path, Path("sets")).train
    assert "--data-dir=s3://bucket/sets" in Commands.of("image_folder", tmp_path, "s3://bucket/sets").build
    commands = Commands.of("fashion_mnist", tmp_path, Path("~/sets"))
    for program in (commands.train, commands.build, commands.save_inputs):
        assert "--data-dir=/home/ada/sets" in program
