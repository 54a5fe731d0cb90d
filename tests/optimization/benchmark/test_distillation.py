import json
from pathlib import Path

import pytest

from optimization.benchmark import distillation as benchmark
from optimization.benchmark.distillation import Findings, judgements, known, main
from optimization.benchmark.teaching import Arm, Lesson, Outcome
from optimization.distill.parameters import Distill
from tests.optimization.distill.lessons import CONVNET, write_teacher
from tests.toys import images
from training.artifact import Artifact
from training.recipe import Recipe
from training.task import Source


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_teacher(tmp_path_factory.mktemp("t"), images(Source()), CONVNET)


def _outcome(arm: Arm, seed: int, accuracy: float, size_bytes: int = 1000) -> Outcome:
    return Outcome(arm, seed, f"{arm}{seed}", accuracy, 100, size_bytes, 1.0)


def _findings(teacher: Artifact, alone: list[float], taught: list[float], accuracy: float) -> Findings:
    outcomes = [_outcome("alone", seed, a) for seed, a in enumerate(alone)]
    outcomes += [_outcome("taught", seed, a) for seed, a in enumerate(taught)]
    return Findings(Distill(), teacher, accuracy, tuple(outcomes))


def test_aims_are_judged_by_the_interval_over_seeds(teacher: Artifact) -> None:
    clear = judgements(_findings(teacher, [0.90, 0.91, 0.92], [0.92, 0.93, 0.942], 0.935))
    assert (
        "taught less alone: +2.07 points (95 % interval over 3 seeds +1.78 to +2.35); above 0 wanted: met" in clear[1]
    )
    assert "at least -1 wanted: met by the mean, missed by the interval" in clear[2]
    doubtful = judgements(_findings(teacher, [0.90, 0.91, 0.92], [0.93, 0.90, 0.93], 0.96))
    assert "above 0 wanted: missed" in doubtful[1]
    assert "missed by the mean" in doubtful[2]
    assert judgements(_findings(teacher, [0.9], [0.95], 0.96))[1:] == ["- two seeds or more make an interval"]


def test_seeds_that_only_one_has_make_no_pair(teacher: Artifact) -> None:
    findings = _findings(teacher, [0.90, 0.91, 0.92], [0.92, 0.93], 0.935)
    assert findings.accuracies("alone") == [0.90, 0.91]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"outcomes": 3}', '{"outcomes": [{"arm": "alone"}]}'])
def test_a_report_that_is_not_there_or_not_of_this_kind_holds_nothing(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    assert known(path) == {}


@pytest.mark.slow
def test_the_same_command_goes_on_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[Arm, int]] = []
    real = Lesson.train

    def train(lesson: Lesson, arm: Arm, recipe: Recipe) -> Outcome:
        trained.append((arm, recipe.seed))
        return real(lesson, arm, recipe)

    monkeypatch.setattr(Lesson, "train", train)
    command = [
        "tests.toys:image_recipe", "--seeds", "1", "--local", "--rounds", "0", "--set", "epochs=1",
        "--student", "tests.toys:image_recipe_student", "--out", str(tmp_path / "out"),
        "--work", str(tmp_path / "work"), "--storage", str(tmp_path / "storage"), "--teacher-set", "epochs=1",
    ]  # fmt: skip
    main(command)
    assert trained == [("alone", 0), ("taught", 0)]
    command[2] = "2"
    command[command.index("--rounds") + 1] = "3"
    main([*command, "--steps", "2"])
    assert trained[2:] == [("alone", 1), ("taught", 1)]
    (report,) = (tmp_path / "out").glob("*.json")
    figures = json.loads(report.read_text())
    assert [(one["arm"], one["seed"]) for one in figures["outcomes"]] == trained
    assert all(0 <= one["accuracy"] <= 1 and one["size_bytes"] > 0 for one in figures["outcomes"])
    assert [len(figures["step_seconds"][arm]) for arm in ("alone", "taught")] == [3, 3]
    page = report.with_suffix(".md").read_text()
    assert "| 1 |" in page
    assert "times as long (95 % interval" in page
    # Other parameters are another student; the one without a teacher is the same.
    main([*command, "--rounds", "0", "--distill", "temperature=2"])
    assert trained[4:] == [("taught", 0), ("taught", 1)]
    assert len(list((tmp_path / "work").glob("teacher-*"))) == 1


def test_a_mistake_is_told_in_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["nothing"], "recipe 'nothing' is not one of"),
        (["digits", "--seeds", "0"], "--seeds is 0"),
        (["digits", "--distill", "heat=2"], "unknown setting 'heat'"),
        (["digits", "--teacher", str(tmp_path / "nowhere")], "is no Artifact"),
    ):
        with pytest.raises(SystemExit, match=message):
            benchmark.main([*arguments, "--out", str(tmp_path), "--work", str(tmp_path), "--local"])
