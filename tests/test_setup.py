"""The set-up files: pins that travel, targets that exist, cluster files that `ray up` takes."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)")


def lines_of_constraints():
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pins():
    matches = [PIN.fullmatch(line) for line in lines_of_constraints()]
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


def requirements():
    extras = PROJECT["optional-dependencies"]
    return [
        Requirement(text) for text in (*PROJECT["dependencies"], *(text for some in extras.values() for text in some))
    ]


def make(*arguments):
    """Run make as a person would in a fresh shell, also when the tests themselves run under make."""
    told = ("MAKE", "MFLAGS", "PORT", "FRESH", "MODEL", "DATA_DIR", "VENV", "PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=env)


def test_every_constraint_is_a_plain_pin():
    """No local path, no address, no build suffix: the file has to work on any machine."""
    assert [line for line in lines_of_constraints() if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_is_pinned_inside_its_range(requirement):
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None
    assert SpecifierSet(str(requirement.specifier)).contains(pinned)


def test_the_pins_are_the_installed_versions():
    """What the tests run on is what the file promises."""
    from importlib.metadata import version

    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert version(requirement.name).split("+")[0] == pins()[canonicalize_name(requirement.name)]


def test_plain_make_lists_every_target():
    text = make().stdout
    for target in ("venv", "gpu", "up", "test", "test-long", "lint", "format", "clean"):
        assert f"make {target} " in text


def test_make_up_passes_its_settings_on():
    command = make("-n", "up", "PORT=8001", "FRESH=1", "MODEL=cifar10", "DATA_DIR=some data").stdout.splitlines()[-1]
    assert command.endswith("-m apps.up --port 8001 --model cifar10 --fresh --data-dir 'some data'")
    assert "--fresh" not in make("-n", "up", "FRESH=0").stdout


def test_without_a_usable_python_make_says_what_it_needs(tmp_path):
    done = make("venv", f"VENV={tmp_path}/venv", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr
    assert "make venv PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_environment_is_remade_only_when_the_pins_change(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    assert "pip" in make("-C", str(tmp_path), "-n", "venv").stdout
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    assert make("-C", str(tmp_path), "-q", "venv").returncode == 0
    (tmp_path / "constraints.txt").write_text("changed==1\n")
    assert make("-C", str(tmp_path), "-q", "venv").returncode == 1


def test_the_package_holds_the_page_and_its_pictures():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["apps"]
    kinds = {path.suffix for path in (ROOT / "apps").rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    assert kinds - {".py"} <= {Path(pattern).suffix for pattern in data}


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster-aws.yaml"])
def test_ray_up_takes_the_cluster_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    validate_config(config)
    assert "tandem" in config["cluster_name"]


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster-aws.yaml"])
def test_every_machine_of_a_cluster_can_import_the_code_it_serves(name):
    config = yaml.safe_load((ROOT / name).read_text())
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        assert "PYTHONPATH=$HOME/tandem" in start
        assert "MLFLOW_TRACKING_URI=" in start
