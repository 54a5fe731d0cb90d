import dataclasses
import json
from collections.abc import Callable

import pytest

from optimization.challenge import Outcome, Terms, challenge
from optimization.challenge_report import challenge_report, challenge_table, draw_class_deltas
from optimization.contender import Contender, Part, require_same_data, teacher_alone
from optimization.release import Guarantee, Release, VersionRef
from tests import duel
from training.artifact import Artifact
from training.registry import Version
from training.task import Source, Task

pytestmark = pytest.mark.slow

TERMS = Terms(margin=0.03, timed_rows=40, rounds=12)
SLOW = 200_000


@pytest.fixture(scope="module")
def task() -> Task:
    return duel.task(Source())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    folder, made = tmp_path_factory.mktemp("models"), {}

    def model(variant: str, **options: object) -> Artifact:
        if variant not in made:
            made[variant] = duel.write_model(folder / variant, variant, **options)  # type: ignore[arg-type]
        return made[variant]

    return model


def _part(artifact: Artifact, task: Task, parent: Artifact | None = None, converted: bool = False) -> Part:
    tags = {"tandem.data_hash": task.data_hash}
    return Part(Version("duel", 1, artifact.digest, "run", tags), artifact, parent, converted)


def _contender(
    name: str, teacher: Part, student: Part, threshold: float | None = 0.9, max_harm: float = 0.05
) -> Contender:
    ref = VersionRef("duel", 1, "0")
    guarantee = Guarantee("high_probability", max_harm, 0.95, 500, "a test's promise")
    return Contender(name, Release("duel", ref, ref, 1.0, threshold, guarantee), teacher, student)


@pytest.fixture(scope="module")
def contender(task: Task, models: Callable[..., Artifact]) -> Contender:
    """A slow teacher that is always right, and a quick student that errs surely on a few rows."""
    teacher = _part(models("teacher", work=SLOW), task)
    return _contender("duel.endpoint@2", teacher, _part(models("student", flaw=1.0), task))


@pytest.fixture(scope="module")
def outcome(contender: Contender, task: Task) -> Outcome:
    return challenge(contender, teacher_alone(contender), task, TERMS)


def _failed(outcome: Outcome) -> list[str]:
    return [check.name for check in outcome.verdict.failures]


def test_a_pair_faster_and_hardly_worse_than_its_teacher_passes(outcome: Outcome) -> None:
    assert outcome.verdict.passed, outcome.verdict
    assert [check.name for check in outcome.verdict.checks] == ["non_inferior", "flips", "harm", "gain", "not_slower"]
    new, old = outcome.challenger, outcome.champion
    assert (old.accuracy, old.deferral) == (1.0, 1.0)
    # Of 600 gate rows the student answers 8 wrong and surely, and defers 20 of which it would have failed.
    assert new.accuracy == pytest.approx(592 / 600)
    assert new.deferral == pytest.approx(20 / 600)
    assert (outcome.difference.reference_only, outcome.difference.candidate_only) == (8, 0)
    assert outcome.flip_rate == pytest.approx(8 / 600)
    assert outcome.speedup.is_faster and new.item_ms < old.item_ms
    assert "times as fast" in outcome.verdict.checks[3].sentence


def test_the_class_that_pays_is_named(outcome: Outcome) -> None:
    deltas = {delta.label: delta for delta in outcome.classes}
    assert deltas["c"].worse and deltas["c"].delta == pytest.approx(-8 / 200)
    assert not deltas["a"].worse and deltas["a"].delta == 0


def test_a_narrower_margin_or_stricter_promise_fails_by_name(contender: Contender, task: Task) -> None:
    alone = teacher_alone(contender)
    assert _failed(challenge(contender, alone, task, dataclasses.replace(TERMS, margin=0.005))) == ["non_inferior"]
    assert _failed(challenge(contender, alone, task, dataclasses.replace(TERMS, max_flip_rate=0.005))) == ["flips"]
    release = contender.release
    assert release is not None
    strict = dataclasses.replace(release, guarantee=dataclasses.replace(release.guarantee, max_harm=0.002))
    assert _failed(challenge(dataclasses.replace(contender, release=strict), alone, task, TERMS)) == ["harm"]


def test_too_few_rows_are_a_refusal_not_a_pass(contender: Contender, models: Callable[..., Artifact]) -> None:
    few = duel.task(Source(), rows=90)
    parts = [_part(part.artifact, few) for part in contender.parts]
    challenger = dataclasses.replace(contender, teacher=parts[0], student=parts[1])
    found = challenge(challenger, teacher_alone(challenger), few, dataclasses.replace(TERMS, margin=0.03))
    assert "non_inferior" in _failed(found)
    assert "Too few rows: 90; at least 99 are needed" in found.verdict.checks[0].sentence


def test_a_change_that_brings_nothing_is_refused(contender: Contender, task: Task) -> None:
    same = dataclasses.replace(contender, reference="duel.endpoint@3")
    found = challenge(same, contender, task, dataclasses.replace(TERMS, max_slowdown=3.0))
    assert _failed(found) == ["gain"]
    assert found.verdict.failures[0].sentence.startswith("Neither faster (speed-up")


def test_a_slower_challenger_is_refused_though_it_is_smaller(
    task: Task, models: Callable[..., Artifact], contender: Contender
) -> None:
    # Neither student defers a row, so the size of a teacher is not seen in the pair's time.
    larger = _part(models("larger", work=SLOW + 80_000), task)
    quick = _contender("duel.endpoint@1", larger, _part(models("quick", work=1), task))
    slow = _contender("duel.endpoint@2", contender.teacher, _part(models("slow", work=40_000), task))
    found = challenge(slow, quick, task, TERMS)
    assert slow.size_bytes < quick.size_bytes
    assert _failed(found) == ["not_slower"]
    assert found.speedup.is_slower


def test_a_converted_model_must_answer_as_what_it_was_converted_from(
    contender: Contender, task: Task, models: Callable[..., Artifact]
) -> None:
    exact, flawed = models("exact"), models("flawed-int8", flaw=1.0, precision="int8")
    alone = teacher_alone(contender)

    def judged(parent: Artifact | None) -> Outcome:
        student = _part(flawed, task, parent, converted=True)
        return challenge(dataclasses.replace(contender, student=student), alone, task, TERMS)

    assert _failed(judged(models("student"))) == []
    flipped = judged(exact)  # 28 of 600 answers differ
    assert _failed(flipped) == ["parity"]
    assert (
        "answers of duel@1 (flawed-int8) and what it was made from (exact) differ" in flipped.verdict.checks[2].sentence
    )
    orphan = judged(None)
    assert _failed(orphan) == ["parity"]
    assert "not in the registry: whether it answers alike cannot be shown" in orphan.verdict.checks[2].sentence
    # A change of format alone is held to the logits themselves.
    exported = _part(models("exported", flaw=0.01), task, exact, converted=True)
    off = challenge(dataclasses.replace(contender, student=exported), alone, task, TERMS)
    assert _failed(off) == ["parity"]
    assert "Logits of duel@1 (exported)" in off.verdict.checks[2].sentence


def test_models_of_other_data_are_not_compared(contender: Contender, task: Task) -> None:
    other = duel.task(Source(), rows=300)
    with pytest.raises(ValueError, match=rf"duel@1 was made from data with the hash {task.data_hash[:12]}"):
        require_same_data((contender,), other)
    unknown = dataclasses.replace(contender.teacher, version=dataclasses.replace(contender.teacher.version, tags={}))
    with pytest.raises(ValueError, match="with the hash unknown"):
        require_same_data((dataclasses.replace(contender, teacher=unknown),), task)


def test_terms_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_slowdown is 0\.9"):
        Terms(max_slowdown=0.9)
    with pytest.raises(ValueError, match="at least 6 rounds"):
        Terms(rounds=5)


def test_the_report_tells_both_the_checks_and_the_machine(outcome: Outcome) -> None:
    data = json.loads(json.dumps(outcome.to_json()))
    assert data["verdict"]["passed"] is True
    assert data["classes"][2]["worse"] is True
    page = challenge_report(outcome, {"classes": draw_class_deltas(outcome)})
    assert "duel.endpoint@2 against duel@1 (the teacher alone)" in page
    assert outcome.verdict.checks[0].sentence in page
    assert "worse for certain" in page and "<svg" in page and outcome.host.cpu in page
    assert challenge_table(outcome).row_count == 2
    assert outcome.metrics()["passed"] == 1.0
