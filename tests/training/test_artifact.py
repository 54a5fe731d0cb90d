import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.toys import IMAGES, TEXTS, texts
from training.artifact import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    Artifact,
    ArtifactError,
    Manifest,
    load_artifact,
    sha256_of,
    write_artifact,
)
from training.encoding import output_spec
from training.models.architecture import Architecture
from training.task import Source

ABOUT: dict[str, Any] = {
    "name": "toy",
    "variant": "teacher",
    "task": "tests.toys:images",
    "format": "onnx",
    "precision": "int8",
    "encoding": IMAGES,
    "input": IMAGES.input_spec,
    "output": output_spec(IMAGES),
    "architecture": Architecture("convnet", {"widths": [8, 16], "dropout": 0.1}),
    "parent": "a" * 64,
}
TEXT: dict[str, Any] = {
    **ABOUT,
    "encoding": TEXTS,
    "input": TEXTS.input_spec,
    "output": output_spec(TEXTS),
    "architecture": None,
    "parent": None,
}


def _write(folder: Path, about: dict[str, Any] = ABOUT, **files: bytes) -> Artifact:
    return write_artifact(folder, {"model.onnx": b"graph", **files}, **about)


@pytest.mark.parametrize("about", [ABOUT, TEXT])
def test_a_manifest_comes_back_from_json_as_it_was(about: dict[str, Any]) -> None:
    manifest = Manifest(**about, files={"model.onnx": "b" * 64})
    raw = manifest.to_json()
    assert Manifest.from_json(raw) == manifest
    assert Manifest.from_json(raw).to_json() == raw
    assert json.loads(raw)["format_version"] == FORMAT_VERSION


PRUNED: dict[str, Any] = {
    **ABOUT,
    "architecture": Architecture("convnet", {"widths": [8, 16]}, {"1.0": (1, 5), "1.1": (5, 5)}),
}


def test_the_sizes_of_pruned_layers_come_back_from_json_as_they_were() -> None:
    raw = Manifest(**PRUNED, files={}).to_json()
    assert json.loads(raw)["architecture"]["sizes"] == {"1.0": [1, 5], "1.1": [5, 5]}
    assert Manifest.from_json(raw) == Manifest(**PRUNED, files={})


def test_a_manifest_without_pruned_layers_has_the_bytes_that_it_had_before_there_were_such() -> None:
    raw = Manifest(**ABOUT, files={}).to_json()
    # The digest of an Artifact is of these bytes: that of one which is registered must stay.
    assert json.loads(raw)["architecture"] == {"name": "convnet", "params": {"dropout": 0.1, "widths": [8, 16]}}
    assert Manifest.from_json(raw).architecture == ABOUT["architecture"]


def test_dropped_blocks_come_back_from_json_as_they_were() -> None:
    about = {**ABOUT, "architecture": Architecture("resnet20", dropped=("layer1.1", "layer3.2"))}
    raw = Manifest(**about, files={}).to_json()
    assert json.loads(raw)["architecture"] == {"name": "resnet20", "params": {}, "dropped": ["layer1.1", "layer3.2"]}
    assert Manifest.from_json(raw) == Manifest(**about, files={})


@pytest.mark.parametrize("dropped", ["layer1.1", 5, [5]])
def test_dropped_blocks_that_are_none_are_refused(dropped: object) -> None:
    about = {**ABOUT, "architecture": Architecture("resnet20", dropped=("layer1.1",))}
    data = json.loads(Manifest(**about, files={}).to_json())
    data["architecture"]["dropped"] = dropped
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        Manifest.from_json(json.dumps(data).encode())


@pytest.mark.parametrize("sizes", [{"1.0": [1]}, {"1.0": 5}, {"1.0": [0, 5]}, {"1.0": [None, 5]}, [[1, 5]]])
def test_sizes_that_are_none_are_refused_by_name(sizes: object) -> None:
    data = json.loads(Manifest(**PRUNED, files={}).to_json())
    data["architecture"]["sizes"] = sizes
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        Manifest.from_json(json.dumps(data).encode())


def test_an_artifact_is_read_back_with_its_files_and_digest(tmp_path: Path) -> None:
    made = _write(tmp_path / "deep" / "a", extra=b"more")
    loaded = load_artifact(tmp_path / "deep" / "a")
    assert loaded == made
    assert loaded.manifest == Manifest(**ABOUT, files=loaded.manifest.files)
    assert loaded.model_path.read_bytes() == b"graph"
    assert loaded.size_bytes == 5
    assert loaded.digest == sha256_of(loaded.folder / MANIFEST_FILE)
    assert loaded.encoding_files() == {}
    assert {path.name for path in loaded.folder.iterdir()} == {"model.onnx", "extra", MANIFEST_FILE}


def test_the_digest_tells_any_change_of_what_was_written(tmp_path: Path) -> None:
    digests = {
        _write(tmp_path / "a").digest,
        _write(tmp_path / "b", {**ABOUT, "parent": None}).digest,
        write_artifact(tmp_path / "c", {"model.onnx": b"other"}, **ABOUT).digest,
    }
    assert len(digests) == 3
    assert _write(tmp_path / "d").digest in digests


def test_a_text_artifact_encodes_with_its_own_tokenizer(tmp_path: Path) -> None:
    task = texts(Source())
    made = write_artifact(tmp_path / "t", {"model.onnx": b"graph", **task.files}, **TEXT)
    assert made.encoder().encode("sea storm").tolist() == task.encoder().encode("sea storm").tolist()


def test_a_model_says_why_it_would_misread_what_a_task_makes(tmp_path: Path) -> None:
    task = texts(Source())
    made = write_artifact(tmp_path / "t", {"model.onnx": b"graph", **task.files}, **TEXT)
    assert made.misreads(TEXTS, task.files) == ""
    longer = dataclasses.replace(TEXTS, max_tokens=9)
    assert made.misreads(longer, task.files) == f"reads {TEXTS}, the task makes {longer}"
    assert made.misreads(IMAGES, {}).startswith("reads ")
    for files in ({}, {TEXTS.tokenizer_file: b"other words"}):
        assert made.misreads(TEXTS, files).startswith("brings another tokenizer")


@pytest.mark.parametrize("name", ["model.onnx", "extra"])
def test_an_altered_file_is_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "a", extra=b"more")
    (tmp_path / "a" / name).write_bytes(b"grapH")
    with pytest.raises(ArtifactError, match=f"{name} has sha256 .* its manifest says"):
        load_artifact(tmp_path / "a")


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    (tmp_path / "a" / "model.onnx").write_bytes(b"gra")
    with pytest.raises(ArtifactError, match=r"model\.onnx has sha256"):
        load_artifact(tmp_path / "a")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "a", extra=b"more")
    (tmp_path / "a" / "extra").unlink()
    with pytest.raises(ArtifactError, match="the file 'extra' of its manifest is missing"):
        load_artifact(tmp_path / "a")


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no manifest.json"):
        load_artifact(tmp_path)


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(key)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.update(format_version=2), "manifest format 2; this Tandem reads format 1"),
        (_without("format_version"), "cannot be read: 'format_version'"),
        (_without("encoding"), "cannot be read: 'encoding'"),
        (_without("variant"), "cannot be read"),
        (lambda data: data.update(surplus=1), "cannot be read.*surplus"),
        (lambda data: data.update(encoding={"kind": "sound"}), "encoding kind 'sound'"),
        (lambda data: data["input"].update(datatype="UINT9"), "datatype 'UINT9'"),
        (lambda data: data.update(input=3), "cannot be read"),
        (lambda data: data.update(files=["model.onnx"]), "cannot be read"),
        (lambda data: data.update(format="pickle"), "format 'pickle' of toy is not one of torch, onnx"),
        (lambda data: data.update(format="torch"), "lists no file 'model.safetensors'"),
        (lambda data: data.update(files={}), "lists no file 'model.onnx'"),
    ],
)
def test_a_spoilt_manifest_is_refused_with_what_is_wrong(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = _write(tmp_path / "a").folder / MANIFEST_FILE
    data = json.loads(path.read_bytes())
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=message):
        load_artifact(tmp_path / "a")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b"\xff\xfe{}", b"null"])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.json cannot be read"):
        Manifest.from_json(raw)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "sub/file", ""])
def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    artifact = _write(tmp_path / "a")
    files = {**artifact.manifest.files, name: sha256_of(tmp_path / "secret")}
    (artifact.folder / MANIFEST_FILE).write_bytes(dataclasses.replace(artifact.manifest, files=files).to_json())
    with pytest.raises(ArtifactError, match="no plain file name"):
        load_artifact(artifact.folder)


def test_a_tokenizer_outside_the_hashed_files_is_not_read(tmp_path: Path) -> None:
    task = texts(Source())
    artifact = write_artifact(tmp_path / "t", {"model.onnx": b"graph", **task.files}, **TEXT)
    (tmp_path / "other.json").write_bytes(b"{}")
    encoding = dataclasses.replace(TEXTS, tokenizer_file="../other.json")
    (artifact.folder / MANIFEST_FILE).write_bytes(dataclasses.replace(artifact.manifest, encoding=encoding).to_json())
    with pytest.raises(ArtifactError, match=r"lists no file '\.\./other\.json'"):
        load_artifact(artifact.folder)


def test_an_existing_folder_is_never_written_over(tmp_path: Path) -> None:
    before = _write(tmp_path / "a")
    with pytest.raises(ArtifactError, match="is never written over"):
        write_artifact(tmp_path / "a", {"model.onnx": b"other"}, **ABOUT)
    assert load_artifact(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("files", "about", "message"),
    [
        ({"model.safetensors": b"x"}, ABOUT, "lists no file 'model.onnx'"),
        ({"model.onnx": b"x"}, TEXT, "lists no file 'tokenizer.json'"),
        ({"model.onnx": b"x", "../escaped": b"x"}, ABOUT, "cannot be a file of an Artifact"),
        ({"model.onnx": b"x", MANIFEST_FILE: b"x"}, ABOUT, "cannot be a file of an Artifact"),
        ({"model.onnx": b"x"}, {**ABOUT, "format": "pickle"}, "is not one of torch, onnx"),
    ],
)
def test_nothing_is_left_behind_by_a_write_that_fails(
    tmp_path: Path, files: dict[str, bytes], about: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        write_artifact(tmp_path / "a", files, **about)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_manifest_field_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_artifact(tmp_path / "a", {"model.onnx": b"x"}, **ABOUT, colour="blue")
    assert list(tmp_path.iterdir()) == []
