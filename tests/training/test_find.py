import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.toys import image_recipe
from training import find
from training.loop.find import Batch, BatchCurve
from training.models.architecture import Architecture
from training.recipe import Recipe, override


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training.find", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    find.main()


@pytest.mark.parametrize(("wanted", "field"), [("--lr", "optimizer.lr"), ("--batch-size", "micro_batch")])
def test_what_is_found_is_printed_as_a_setting_and_drawn(
    wanted: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _run(monkeypatch, "tests.toys:image_recipe", wanted, "--plot", "found.png")
    printed = capsys.readouterr().out.splitlines()
    setting = next(line for line in printed if line.startswith("--set ")).removeprefix("--set ")
    assert setting.startswith(f"{field}=")
    assert override(image_recipe(), [setting]) != image_recipe()
    assert printed[-1] == "plot: found.png"
    with Image.open(tmp_path / "found.png") as plot:
        assert plot.size[0] > 400
    assert [path.name for path in tmp_path.iterdir()] == ["found.png"]


@pytest.mark.parametrize(
    "setting", ["augmentation.mixup=0.4", "class_balance=sampling", "label_smoothing=0.5", "optimizer.name=muon"]
)
def test_the_recipes_own_choices_are_tried(
    setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(*settings: str) -> str:
        _run(monkeypatch, "tests.toys:image_recipe", "--lr", *(part for one in settings for part in ("--set", one)))
        return capsys.readouterr().out

    assert found(setting) != found()


def test_texts_are_tried_with_the_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits with them fits with all."""
    read_rows = []

    def spy(recipe: Recipe, module: object, read: Callable[[int], Batch], loss: object, most: int) -> BatchCurve:
        read_rows.extend([read(3)[0], read(most)[0]])
        return BatchCurve((3,), (1.0,), 3)

    monkeypatch.setattr("training.loop.find.find_micro_batch", spy)
    _run(monkeypatch, "tests.training.test_find:text_recipe", "--batch-size")
    few, many = ((tokens != 0).sum(dim=1).tolist() for tokens in read_rows)
    assert len(many) == 120
    assert min(few) == max(many) > min(many)


def text_recipe() -> Recipe:
    architecture = Architecture("bag_of_embeddings", {"vocabulary": 40, "embedding": 8, "hidden": 8})
    return dataclasses.replace(image_recipe(), task="tests.toys:texts", architecture=architecture)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "--lr"), "recipe 'nothing' is not one of digits"),
        (("digits", "--lr", "--set", "optimizer.rate=1"), "unknown setting 'optimizer.rate'"),
        (("tests.toys:image_recipe", "--lr", "--steps", "3"), "3 steps tell nothing of a learning rate"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=f"training.find: {message}"):
        _run(monkeypatch, *arguments)
