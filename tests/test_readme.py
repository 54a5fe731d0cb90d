"""The README keeps its word: its configuration is valid, its examples are short, and its commands run as they stand.

The commands run in a copy of the project, against an endpoint that `make up` started there.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from apps.launcher.ports import free_block
from tests.readme import README, Block, blocks

ROOT = README.parent
COPIED = ("apps", "training", "optimization", "loadtests", "Makefile", "pyproject.toml", "constraints.txt",
          "serve_config.yaml", ".gitignore")  # fmt: skip
UP_TIMEOUT_S = 900
BLOCK_TIMEOUT_S = 300
RUN = [block for block in blocks() if block.language in ("bash", "python") and not block.reason]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in blocks()} <= {"bash", "python", "yaml"}
    assert len(RUN) >= 8


def test_the_example_of_an_own_model_is_at_most_40_lines() -> None:
    (example,) = [block for block in blocks() if block.file]
    assert len(example.text.strip().splitlines()) <= 40


def test_yaml_blocks_are_valid_application_arguments() -> None:
    from apps.args import AppArgs

    fragments = [yaml.safe_load(block.text) for block in blocks() if block.language == "yaml"]
    assert fragments
    for fragment in fragments:
        AppArgs.model_validate(fragment["args"])


def test_files_that_the_readme_links_to_exist() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


@dataclass(frozen=True)
class Up:
    """A `make up` that serves, in a copy of the project."""

    folder: Path
    port: int
    process: "subprocess.Popen[str]"
    log: Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a stranger has it after installation: its files, and a .venv that `make` takes as it is."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "reports"))
        else:
            shutil.copy(source, folder / name)
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        (folder / ".venv" / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def up(project: Path) -> Iterator[Up]:
    running = start_up(project, free_block(1))
    try:
        wait_until_serving(running)
        yield running
    finally:
        stop(running)


def start_up(project: Path, port: int, *arguments: str) -> Up:
    log = project / f"up-{port}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["make", "--old-file=.venv/.installed", "up", f"PORT={port}", *arguments],
            cwd=project, env=environment, stdout=stream, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            # Ctrl-C must reach it also where the tests run in the background, whose jobs ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    return Up(project, port, process, log)


def wait_until_serving(running: Up) -> None:
    deadline = time.monotonic() + UP_TIMEOUT_S
    while "Ctrl-C stops everything" not in running.log.read_text():
        assert running.process.poll() is None, running.log.read_text()[-3000:]
        assert time.monotonic() < deadline, running.log.read_text()[-3000:]
        time.sleep(0.5)


def stop(running: Up) -> None:
    """Ctrl-C: SIGINT to the whole foreground group."""
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGINT)
    running.process.wait(timeout=60)


def run_block(block: Block, running: Up) -> "subprocess.CompletedProcess[str]":
    """As a reader pastes it, in a shell that took the README's first lines; the port is this endpoint's.

    Objectives are loosened: that the commands work is tested, not how fast a shared machine is.
    """
    text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{running.port}").replace("--p95-ms 50", "--p95-ms 2000")
    text = text.replace("loadtests.slo ", f"loadtests.slo --url http://127.0.0.1:{running.port} ")
    if text.startswith("locust "):
        text = f"{text.strip()} --p95-ms 2000"
    prelude = ". .venv/bin/activate\n. .tandem/env\n"
    command = ["bash", "-euo", "pipefail", "-c", prelude + text]
    if block.language == "python":
        command = ["bash", "-euo", "pipefail", "-c", f"{prelude}python - <<'EOF'\n{text}EOF"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.run(
        command, cwd=running.folder, env={**environment, "PATH": path}, capture_output=True, text=True,
        timeout=BLOCK_TIMEOUT_S,
    )  # fmt: skip


@pytest.mark.cluster
@pytest.mark.timeout(UP_TIMEOUT_S + 60)
def test_make_up_shows_the_table_the_addresses_and_a_curl_line_that_works(up: Up) -> None:
    said = up.log.read_text()
    for expected in ("teacher-fp32", "student-int8", "OpenAPI", "Ray dashboard", "MLflow", "0 failed"):
        assert expected in said
    (curl,) = re.findall(r"^\s*(curl .+)$", said, re.MULTILINE)
    answer = json.loads(subprocess.run(["bash", "-c", f"{curl} -s"], capture_output=True, check=True).stdout)
    assert answer["predictions"][0]["label"] == "3"


@pytest.mark.cluster
@pytest.mark.timeout(UP_TIMEOUT_S + BLOCK_TIMEOUT_S)
@pytest.mark.parametrize("block", RUN, ids=lambda block: f"line {block.line}")
def test_block_runs(up: Up, block: Block) -> None:
    if block.file:
        (up.folder / block.file).write_text(block.text)
        return
    done = run_block(block, up)
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.cluster
@pytest.mark.timeout(UP_TIMEOUT_S)
def test_a_second_make_up_serves_without_training_and_ctrl_c_leaves_nothing(project: Path, up: Up) -> None:
    stop(up)
    again = start_up(project, up.port)
    wait_until_serving(again)
    said = again.log.read_text()
    stop(again)
    assert "Train the digits teacher" not in said
    assert processes_of(project) == []


def processes_of(project: Path) -> list[str]:
    """Command lines of living processes that name the project's folder."""
    import psutil

    lines = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(project) in line and process.pid != os.getpid():
            lines.append(line)
    return lines
