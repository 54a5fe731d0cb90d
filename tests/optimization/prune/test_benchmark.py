import json
import sys
from pathlib import Path

import pytest

from optimization.prune.accuracy import accuracy_of
from optimization.prune.benchmark import main
from tests.optimization.prune.conftest import Trained
from training.module import load_module

pytestmark = pytest.mark.slow


def _run(monkeypatch: pytest.MonkeyPatch, digits: Trained, *arguments: str) -> None:
    params = json.dumps(dict(digits.artifact.manifest.architecture.params))  # type: ignore[union-attr]
    model = ["resnet", "--params", params, "--weights", str(digits.artifact.folder)]
    monkeypatch.setattr(
        sys, "argv", ["benchmark", *model, "--recipe", "tests.toys:digits_recipe", "--local", *arguments]
    )
    main()


def test_every_amount_is_told_beside_the_whole_model(
    digits: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lessons = ["--set", "fine_tune.epochs=1", "--storage", str(tmp_path / "store")]
    _run(monkeypatch, digits, "--amount", "0.4", "--amount", "0.7", *lessons, "--out", str(tmp_path / "out.json"))
    made = json.loads((tmp_path / "out.json").read_text())
    whole, some, most = made["rows"]
    assert [row["amount"] for row in made["rows"]] == [0.0, 0.4, 0.7]
    module = load_module(digits.artifact)
    assert whole["counts"]["parameters"] == sum(parameter.numel() for parameter in module.parameters())
    assert whole["accuracy"] == whole["accuracy_cut"] == accuracy_of(module, digits.task.splits["gate"])
    assert whole["speedup"]["8"]["ratio"] == 1.0
    for figure in ("parameters", "macs"):
        assert whole["counts"][figure] > some["counts"][figure] > most["counts"][figure]
    assert some["accuracy_cut"] != some["accuracy"]
    assert made["host"]["threads"] == 1 and made["settings"]["fine_tune"]["epochs"] == 1
    assert f"{most['counts']['parameters']:,}" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_refused(digits: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"optimization\.prune\.benchmark: no weights at .*absent\.safetensors"):
        _run(monkeypatch, digits, "--amount", "0.4", "--weights", str(tmp_path / "absent.safetensors"))
