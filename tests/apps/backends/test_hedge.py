import asyncio

import pytest

from apps.backends.hedge import Hedge, HedgedBackend, HedgeLimits
from apps.refusal import Refused, RefusedError


def known(limits=None, duration_s=0.01):
    """A Hedge that has seen enough answers of `duration_s`."""
    hedge = Hedge(limits or HedgeLimits())
    for _ in range(30):
        hedge.answered(duration_s)
    return hedge


def test_the_delay_is_unknown_before_enough_answers():
    hedge = Hedge(HedgeLimits())
    for _ in range(19):
        hedge.answered(0.01)
    assert hedge.delay_s is None


def test_the_delay_is_the_percentile_of_the_last_answers():
    hedge = Hedge(HedgeLimits(percentile=0.9, window=100))
    for number in range(1_000, 1_100):
        hedge.answered(number)
    assert hedge.delay_s == 1_090
    for _ in range(100):
        hedge.answered(1.0)
    assert hedge.delay_s == 1.0


def test_the_budget_is_a_share_of_requests_after_a_burst():
    hedge = Hedge(HedgeLimits(share=0.05, burst=2))
    spent = 0
    for _ in range(1_000):
        hedge.asked()
        spent += hedge.spend()
    assert spent == pytest.approx(1_000 * 0.05 + 2, abs=1)
    assert hedge.spent == spent


@pytest.mark.parametrize("limits", [{"percentile": 1.0}, {"share": 0.0}, {"share": 1.5}, {"burst": 0}, {"window": 5}])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="cannot be kept"):
        HedgeLimits(**limits)


class Model:
    """Answers the nth call with the nth of `outcomes`: (after seconds, logits or reason of a refusal)."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.cancelled = 0
        self.timeouts = []

    async def infer(self, rows, timeout_s):
        self.timeouts.append(timeout_s)
        after_s, outcome = self.outcomes.pop(0)
        try:
            await asyncio.sleep(after_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if outcome in ("overload", "timeout"):
            raise RefusedError(Refused(outcome, "no"))
        return outcome


def infer(model, hedge, timeout_s=5.0):
    async def scenario():
        outcome = await HedgedBackend(model, hedge).infer("rows", timeout_s)
        await asyncio.sleep(0)
        return outcome

    return asyncio.run(scenario())


def test_a_slow_answer_is_asked_for_again_and_the_first_to_come_wins():
    model = Model((5, "slow"), (0, "quick"))
    assert infer(model, known()) == "quick"
    assert model.cancelled == 1
    assert 4.0 < model.timeouts[1] < 5.0


def test_the_first_call_may_still_win():
    model = Model((0.05, "first"), (5, "second"))
    assert infer(model, known()) == "first"
    assert model.cancelled == 1


def test_a_quick_answer_is_asked_for_once():
    model = Model((0, "quick"))
    assert infer(model, known(duration_s=1.0)) == "quick"
    assert len(model.timeouts) == 1


def test_without_budget_a_slow_answer_is_waited_for():
    hedge = known(HedgeLimits(burst=1, share=0.01))
    hedge.spend()
    assert infer(Model((0.05, "slow")), hedge) == "slow"


def test_nothing_is_asked_again_that_could_not_come_in_time():
    assert infer(Model((0.05, "slow")), known(duration_s=1.0), timeout_s=0.5) == "slow"


def test_a_quick_refusal_is_the_answer():
    with pytest.raises(RefusedError):
        infer(Model((0, "overload")), known(duration_s=1.0))


@pytest.mark.parametrize("outcomes", [[(0.05, "overload"), (0.1, "yes")], [(0.1, "yes"), (0, "overload")]])
def test_a_refusal_of_one_leaves_the_other_its_chance(outcomes):
    assert infer(Model(*outcomes), known()) == "yes"


def test_where_both_are_refused_it_is_refused():
    with pytest.raises(RefusedError) as caught:
        infer(Model((0.05, "timeout"), (0, "overload")), known())
    assert caught.value.refused.reason == "timeout"


def test_a_caller_that_goes_cancels_both():
    model = Model((5, "a"), (5, "b"))

    async def scenario():
        task = asyncio.ensure_future(HedgedBackend(model, known()).infer("rows", 5.0))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert model.cancelled == 2
