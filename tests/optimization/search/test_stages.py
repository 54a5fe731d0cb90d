import json
import threading
import time
from pathlib import Path

import pytest

from optimization.search.stages import Stages
from tests import toys
from training.artifact import Artifact
from training.models.architecture import Architecture
from training.task import Source


def _made(folder: Path) -> Artifact:
    return toys.write_torch(folder / "toy", toys.images(Source()), Architecture("convnet", {"widths": [4, 8, 8]}))


def test_a_stage_is_made_once_and_then_found(tmp_path: Path) -> None:
    stages, calls = Stages(tmp_path), []

    def make(folder: Path) -> Artifact:
        calls.append(folder)
        return _made(folder)

    first = stages.get("distilling", {"a": 1}, make)
    again = Stages(tmp_path).get("distilling", {"a": 1}, make)
    assert (first.reused, again.reused, len(calls)) == (False, True, 1)
    assert again.artifact.digest == first.artifact.digest and again.seconds == first.seconds


@pytest.mark.parametrize(("name", "made_of"), [("pruning", {"a": 1}), ("distilling", {"a": 2})])
def test_another_pass_or_another_origin_is_another_stage(tmp_path: Path, name: str, made_of: dict[str, int]) -> None:
    stages = Stages(tmp_path)
    stages.get("distilling", {"a": 1}, _made)
    assert not stages.get(name, made_of, _made).reused


def test_what_two_ask_for_at_once_is_made_by_one(tmp_path: Path) -> None:
    calls: list[int] = []

    def make(folder: Path) -> Artifact:
        calls.append(1)
        time.sleep(0.2)
        return _made(folder)

    def ask(found: list[bool]) -> None:
        found.append(Stages(tmp_path).get("distilling", {}, make).reused)

    found: list[bool] = []
    threads = [threading.Thread(target=ask, args=(found,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and sorted(found) == [False, True, True]


def test_nothing_is_kept_of_a_stage_that_fails(tmp_path: Path) -> None:
    def fail(folder: Path) -> Artifact:
        _made(folder)
        raise ValueError("diverged")

    stages = Stages(tmp_path)
    with pytest.raises(ValueError, match="diverged"):
        stages.get("distilling", {}, fail)
    assert not stages.get("distilling", {}, _made).reused


@pytest.mark.parametrize("harm", ["weights", "note"])
def test_a_torn_stage_is_made_again(tmp_path: Path, harm: str) -> None:
    stages = Stages(tmp_path)
    made = stages.get("distilling", {}, _made).artifact
    file = made.model_path if harm == "weights" else made.folder.parent / "stage.json"
    file.write_bytes(file.read_bytes()[:-3])
    found = stages.get("distilling", {}, _made)
    assert not found.reused and found.artifact.digest == made.digest


def test_a_stage_says_what_it_was_made_of(tmp_path: Path) -> None:
    made = Stages(tmp_path).get("distilling", {"teacher": "abc"}, _made).artifact
    assert json.loads((made.folder.parent / "stage.json").read_text())["made_of"] == {"teacher": "abc"}
