import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from optimization.gate import Verdict, gate_release, gate_student, minimum_rows, non_inferior
from optimization.measure.paired import inferiority_p_value
from optimization.measure.parity import Parity
from training.encoding import Array


def _pair(both: int, lost: int, gained: int, neither: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    reference = np.repeat([True, True, False, False], [both, lost, gained, neither])
    candidate = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return reference, candidate


@pytest.mark.parametrize(("rows", "margin"), [(99, 0.03), (360, 0.03), (300, 0.01), (1000, 0.01)])
def test_a_candidate_at_the_margin_passes_one_time_in_twenty(rows: int, margin: float) -> None:
    """Exact, by summing over every table: for each count lost, the least count gained that passes."""
    lost = np.arange(min(rows // 4, 110))
    least = np.empty(len(lost))
    gained = 0
    for count in range(len(lost)):
        while gained <= rows - count and inferiority_p_value(gained, count, rows, -margin) > 0.05:
            gained += 1
        least[count] = gained
    for gain in (0.0, 0.002, 0.01, 0.05):
        loss = gain + margin
        passes = (binom.pmf(lost, rows, loss) * binom.sf(least - 1, rows - lost, gain / (1 - loss))).sum()
        assert passes <= 0.05
    assert passes > 0.02, "a gate that lets nothing through at its margin is stricter than it says"


@pytest.mark.parametrize(("margin", "needed"), [(0.01, 299), (0.03, 99)])
def test_too_few_rows_are_refused_even_without_a_lost_row(margin: float, needed: int) -> None:
    assert minimum_rows(margin) == needed
    assert non_inferior(*_pair(needed, 0, 0), margin).passed
    check = non_inferior(*_pair(needed - 1, 0, 0), margin)
    assert not check.passed
    assert check.sentence.startswith(f"Too few rows: {needed - 1}; at least {needed} are needed")


def test_non_inferiority_is_told_from_a_loss_beyond_the_margin() -> None:
    within = non_inferior(*_pair(both=3900, lost=30, gained=20, neither=50), margin=0.01)
    beyond = non_inferior(*_pair(both=3850, lost=90, gained=20, neither=40), margin=0.01)
    assert within.passed and "within the margin of 1 points" in within.sentence
    assert not beyond.passed and "scores -1.75 points" in beyond.sentence and "20 rows won, 90 lost" in beyond.sentence
    assert within.limit == -0.01 <= within.figure


def _logits(predicted: NDArray[np.int64]) -> Array:
    return np.eye(3)[predicted]


def _student_verdict(wrong: int = 0, size_bytes: int = 100, parity: Parity | None = None, **limits: float) -> Verdict:
    labels = np.arange(600) % 3
    predicted = labels.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % 3
    return gate_student(
        labels,
        _logits(labels),
        _logits(predicted),
        margin=0.03,
        size_bytes=size_bytes,
        reference_size_bytes=400,
        parent_parity=parity or Parity(max_abs_diff=0.2, flips=1, rows=100),
        **limits,
    )


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failures]


def test_a_good_student_passes_every_check() -> None:
    verdict = _student_verdict(wrong=5)
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["non_inferior", "flips", "parent_flips", "smaller"]
    assert "4.00 times smaller" in verdict.checks[-1].sentence
    assert json.loads(json.dumps(verdict.to_json()))["passed"] is True


def test_each_failing_is_named() -> None:
    assert _failed(_student_verdict(wrong=30)) == ["non_inferior"]
    assert _failed(_student_verdict(wrong=5, max_flip_rate=0.005)) == ["flips"]
    assert _failed(_student_verdict(parity=Parity(0.0, 3, 100))) == ["parent_flips"]
    assert _failed(_student_verdict(max_parent_abs_diff=0.1)) == ["parent_difference"]
    assert _failed(_student_verdict(size_bytes=400)) == ["smaller"]
    assert not _student_verdict(size_bytes=400).passed


def _release_verdict(threshold: float | None, margin: float = 0.03, max_harm: float = 0.01) -> Verdict:
    """A teacher that is always right; a student that is wrong in 40 of 600 rows, and unsure of 30 of those."""
    labels = np.arange(600) % 3
    predicted = labels.copy()
    predicted[:40] = (predicted[:40] + 1) % 3
    student = _logits(predicted) * 8
    student[:30] /= 8
    return gate_release(
        labels,
        _logits(labels),
        student,
        temperature=1.0,
        threshold=threshold,
        margin=margin,
        max_harm=max_harm,
    )


def test_a_pair_is_judged_as_it_answers() -> None:
    never_deferring, deferring, teacher_only = (_release_verdict(threshold) for threshold in (0.0, 0.9, None))
    assert _failed(never_deferring) == ["non_inferior", "harm"]
    assert deferring.passed
    assert "10 of 600 rows were harmed" in deferring.checks[1].sentence
    assert teacher_only.passed
    assert teacher_only.checks[1].figure == 0


def test_harm_fails_only_where_it_contradicts_the_promise() -> None:
    # 10 of 600 is above 1 % but may be chance; it cannot be chance at 0.5 %.
    assert _release_verdict(0.9, max_harm=0.01).passed
    broken = _release_verdict(0.9, max_harm=0.005)
    assert _failed(broken) == ["harm"]
    assert "contradicts the promise of at most 0.50%" in broken.checks[1].sentence


def test_a_margin_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="margin is 0"):
        minimum_rows(0)
