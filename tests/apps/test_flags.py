"""The settings of Ray Serve: known to Ray, with a reason each, and the same wherever Tandem starts Ray."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from apps.flags import FLAGS, missing_flags, serve_environment, shell_lines
from apps.launcher.local import ROOT

CLUSTER_FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "deploy").glob("cluster*.yaml"))]


def test_ray_reads_every_flag():
    """A misspelled one would be ignored in silence."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    ray = Path(spec.origin).parent
    source = (ray / "serve" / "_private" / "constants.py").read_text()
    # Settings in lower case are those of Ray's core, which is a program.
    core = (ray / "core" / "src" / "ray" / "raylet" / "raylet").read_bytes()
    unread = [
        flag.name
        for flag in FLAGS
        if f'"{flag.name}"' not in source
        and (flag.name.isupper() or flag.name.removeprefix("RAY_").encode() not in core)
    ]
    assert unread == []


def test_every_flag_stands_once_and_says_why():
    assert len(serve_environment()) == len(FLAGS)
    assert [flag.name for flag in FLAGS if len(flag.reason) < 40] == []


def test_nothing_is_missing_where_all_is_set():
    assert missing_flags(serve_environment()) == []


def test_what_is_missing_is_named_with_what_to_do_and_why():
    environ = {**serve_environment(), "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    (line,) = missing_flags(environ)
    assert line.startswith("RAY_SERVE_ENABLE_HA_PROXY is 0, should be '1' where Ray starts: ")
    assert len(missing_flags({})) == sum(flag.essential for flag in FLAGS)


def test_a_matter_of_taste_is_not_a_fault():
    assert missing_flags({**serve_environment(), "RAY_SERVE_HAPROXY_NBTHREAD": "16"}) == []


def exported(environ):
    """What a shell's children get after `eval "$(python -m apps.flags)"`."""
    script = f'eval "$({sys.executable} -m apps.flags)"; env -0'
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def test_a_shell_gets_the_same_and_keeps_what_it_had():
    own = {"RAY_SERVE_HAPROXY_NBTHREAD": "8", "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure 503"}
    got = exported({"PATH": os.environ["PATH"], **own})
    assert {name: got.get(name) for name in serve_environment()} == {**serve_environment(), **own}
    assert os.access(got["RAY_SERVE_HAPROXY_BINARY_PATH"], os.X_OK)


@pytest.mark.parametrize("path", CLUSTER_FILES, ids=lambda path: path.name)
def test_every_ray_start_of_a_cluster_file_comes_after_the_flags(path):
    config = yaml.safe_load(path.read_text())
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config[key] if "ray start" in command]
        assert len(starts) == 1
        before = starts[0].partition("ray start")[0]
        assert 'eval "$(python -m apps.flags)"' in before
        assert ".venv/bin:$PATH" in before.partition("eval")[0]
        assert "cd ~/tandem" in before.partition("eval")[0]


def test_importing_it_needs_no_ray_and_says_nothing():
    code = "import sys, apps.flags; print(sorted({'ray', 'yaml', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "RAY_SERVE" in shell_lines()
