"""Checkpoint: one training state on disk, written atomically and checked by its hash when read."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

STATE_FILE = "state.pt"
HASH_FILE = "state.sha256"


class CheckpointError(ValueError):
    """A checkpoint that is torn, altered or absent."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) into `folder`."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / STATE_FILE, content)
    # The hash comes last: a checkpoint without it was never finished.
    _write(folder / HASH_FILE, hashlib.sha256(content).hexdigest().encode())


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Inverse of `save_checkpoint`; runs no code from the file. Raises CheckpointError where it is not whole."""
    import pickle

    import torch

    try:
        content = (folder / STATE_FILE).read_bytes()
        expected = (folder / HASH_FILE).read_text().strip()
    except OSError as error:
        raise CheckpointError(f"{folder} holds no whole checkpoint: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(f"{folder / STATE_FILE} has sha256 {found[:12]}..., it was written as {expected[:12]}...")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder / STATE_FILE} holds no training state: {error}") from error
    return state


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_suffix(path.suffix + ".part")
    with scratch.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)
