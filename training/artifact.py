"""Artifact: an immutable folder that can be served with nothing else, described by its manifest.json."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from training.encoding import Encoder, Encoding, TensorSpec, TextEncoding, encoding_from_json
from training.models.architecture import Architecture, self_contained

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1

ModelFormat = Literal["torch", "onnx"]
Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"]
MODEL_FILE: dict[str, str] = {"torch": "model.safetensors", "onnx": "model.onnx"}


class ArtifactError(ValueError):
    """A folder that is not a whole, unaltered Artifact."""


@dataclass(frozen=True)
class Manifest:
    """All that is known of a model without measuring it.

    `architecture` rebuilds a "torch" model's module; `parent` is the digest of the Artifact this one
    was made from; `files` maps each other file of the folder to its sha256.
    """

    name: str
    variant: str
    task: str
    format: ModelFormat
    precision: Precision
    encoding: Encoding
    input: TensorSpec
    output: TensorSpec
    architecture: Architecture | None
    parent: str | None
    files: Mapping[str, str]

    def to_json(self) -> bytes:
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        if self.architecture:
            data["architecture"] = self.architecture.to_json()
        return json.dumps(data, indent=2, sort_keys=True).encode() + b"\n"

    @staticmethod
    def from_json(raw: bytes) -> "Manifest":
        """Raises ArtifactError on anything that `to_json` did not write."""
        try:
            data = json.loads(raw)
            version = data.pop("format_version")
            if version != FORMAT_VERSION:
                raise ArtifactError(f"manifest format {version}; this Tandem reads format {FORMAT_VERSION}")
            architecture = data.pop("architecture")
            return Manifest(
                **{
                    **data,
                    "encoding": encoding_from_json(data["encoding"]),
                    "input": _tensor_spec(data["input"]),
                    "output": _tensor_spec(data["output"]),
                    "architecture": Architecture.from_json(architecture) if architecture else None,
                    "files": {name: str(digest) for name, digest in data["files"].items()},
                }
            )
        except ArtifactError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{MANIFEST_FILE} cannot be read: {error}") from error


@dataclass(frozen=True)
class Artifact:
    folder: Path
    manifest: Manifest
    digest: str

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL_FILE[self.manifest.format]

    @property
    def size_bytes(self) -> int:
        """Bytes of the model file: what a server must hold and move (the tokenizer is shared, so not counted)."""
        return self.model_path.stat().st_size

    def encoding_files(self) -> dict[str, bytes]:
        encoding = self.manifest.encoding
        if not isinstance(encoding, TextEncoding):
            return {}
        return {encoding.tokenizer_file: (self.folder / encoding.tokenizer_file).read_bytes()}

    def encoder(self) -> Encoder:
        return Encoder(self.manifest.encoding, self.encoding_files())

    def misreads(self, encoding: Encoding, files: Mapping[str, bytes]) -> str:
        """Why a row that a task makes by this encoding, with these files, means something else to the model; empty: it
        means the same.
        """
        if encoding != self.manifest.encoding:
            return f"reads {self.manifest.encoding}, the task makes {encoding}"
        if any(files.get(name) != content for name, content in self.encoding_files().items()):
            return "brings another tokenizer than the task has, which learns it from its train split"
        return ""


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_artifact(folder: Path, files: Mapping[str, bytes], **manifest: Any) -> Artifact:
    """Write `files` and their manifest to the new folder `folder`, whole or not at all.

    `manifest` are Manifest's fields without `files`. Raises ArtifactError where `folder` exists, a name is
    no plain file name, or a file that the manifest speaks of is not given.
    """
    if folder.exists():
        raise ArtifactError(f"{folder} exists; an Artifact is never written over, choose another folder")
    for name in files:
        if not _is_plain(name) or name == MANIFEST_FILE:
            raise ArtifactError(f"{name!r} cannot be a file of an Artifact: give a plain name, not {MANIFEST_FILE}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        hashes = {}
        for name, content in files.items():
            (scratch / name).write_bytes(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
        architecture = manifest["architecture"]
        # A folder or a name that the model's shape was read from may be gone when the Artifact is loaded.
        manifest["architecture"] = self_contained(architecture) if architecture else None
        made = Manifest(**manifest, files=hashes)
        _require_files(made)
        (scratch / MANIFEST_FILE).write_bytes(made.to_json())
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return load_artifact(folder)


def load_artifact(folder: Path) -> Artifact:
    """Read and verify an Artifact; raises ArtifactError naming the file that is missing or altered."""
    manifest_path = folder / MANIFEST_FILE
    if not manifest_path.is_file():
        raise ArtifactError(f"{folder} is no Artifact: it holds no {MANIFEST_FILE}")
    manifest = Manifest.from_json(manifest_path.read_bytes())
    for name, expected in manifest.files.items():
        path = folder / name
        if not _is_plain(name):
            raise ArtifactError(f"Artifact {folder}: its manifest names {name!r}, which is no plain file name")
        if not path.is_file():
            raise ArtifactError(f"Artifact {folder}: the file {name!r} of its manifest is missing")
        found = sha256_of(path)
        if found != expected:
            raise ArtifactError(
                f"Artifact {folder}: {name} has sha256 {found[:12]}..., its manifest says {expected[:12]}...: "
                "it was altered; delete the folder and fetch it anew"
            )
    _require_files(manifest)
    return Artifact(folder, manifest, sha256_of(manifest_path))


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", "..")


def _require_files(manifest: Manifest) -> None:
    """What is read by the manifest's word alone must be among the files that it holds hashes of."""
    if manifest.format not in MODEL_FILE:
        raise ArtifactError(f"format {manifest.format!r} of {manifest.name} is not one of {', '.join(MODEL_FILE)}")
    needed = [MODEL_FILE[manifest.format]]
    if isinstance(manifest.encoding, TextEncoding):
        needed.append(manifest.encoding.tokenizer_file)
    for name in needed:
        if name not in manifest.files:
            raise ArtifactError(f"the manifest of {manifest.name} ({manifest.variant}) lists no file {name!r}")


def _tensor_spec(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(data["name"], data["datatype"], tuple(data["shape"]))
