import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from optimization.benchmark import backends as module
from optimization.benchmark.backends import absences, compare_backends, sample_rows
from optimization.runners.names import Backend
from training.artifact import Artifact

LACKED: tuple[Backend, ...] = ("tensorrt",)
ON_CPU: tuple[Backend, ...] = ("torch", "onnxruntime-cpu")


@pytest.fixture(scope="module")
def pair(exported_images: Any) -> list[Artifact]:
    return [exported_images.source, exported_images.variant.artifact]


def test_each_artifact_runs_on_the_backends_of_its_format(pair: list[Artifact]) -> None:
    entries = compare_backends(pair, ON_CPU, batch_sizes=(1, 3), rounds=2)
    assert [(entry.variant, entry.backend) for entry in entries] == [
        ("student", "torch"),
        ("student-fp32", "onnxruntime-cpu"),
    ]
    assert {(entry.device, entry.precision) for entry in entries} == {("cpu", "fp32")}
    for entry in entries:
        assert entry.latency is not None
        assert [batch.batch_size for batch in entry.latency.batches] == [1, 3]
        assert entry.max_abs_diff is not None
        assert entry.max_abs_diff < 1e-3


def test_what_does_not_run_is_listed_with_its_reason(pair: list[Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimization.runners.tensorrt_engine.util.find_spec", lambda name: None)
    *_, absent = compare_backends(pair, (*ON_CPU, *LACKED), batch_sizes=(1,), rounds=1)
    assert (absent.backend, absent.latency) == ("tensorrt", None)
    assert "not installed" in str(absent.reason)
    twice = [dataclasses.replace(absent, variant=name) for name in ("a", "b")]
    assert absences(twice) == [f"tensorrt does not run a, b: {absent.reason}"]
    with pytest.raises(ValueError, match="nothing runs: tensorrt: TensorRT's Python package is not installed"):
        compare_backends(pair, LACKED)


def test_rows_are_those_that_the_model_reads(pair: list[Artifact], exported_texts: Any) -> None:
    images = sample_rows(pair[0], 5)
    assert (images.shape, str(images.dtype)) == ((5, 1, 8, 8), "uint8")
    assert images.std() > 50
    texts = sample_rows(exported_texts.source, 5)
    assert (texts.shape, str(texts.dtype)) == ((5, 8), "int64")
    assert (texts != exported_texts.task.encoding.pad_id).all()


def test_the_command_prints_a_table_and_writes_the_figures(
    pair: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    target = tmp_path / "figures.json"
    arguments = [*(str(artifact.folder) for artifact in pair), "--backend", "torch", "--backend", "onnxruntime-cpu"]
    monkeypatch.setattr(sys, "argv", ["backends", *arguments, "--batch", "2", "--json", str(target)])
    monkeypatch.setenv("COLUMNS", "200")
    module.main()
    assert "onnxruntime-cpu" in capsys.readouterr().out
    figures = json.loads(target.read_text())
    assert [entry["backend"] for entry in figures["entries"]] == ["torch", "onnxruntime-cpu"]
    assert figures["entries"][0]["latency"][0]["batch_size"] == 2
    assert figures["host"]["threads"] == 1


def test_a_folder_without_an_artifact_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["backends", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no Artifact"):
        module.main()
