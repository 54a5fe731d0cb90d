import itertools
import json
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter

from optimization.prune.settings import FineTune, Prune, Sparsify, share_left
from training.recipe import override


@pytest.mark.parametrize(
    "settings",
    [
        Prune(amount=0.5),
        Prune(speedup=1.5, criterion="l2", allocation="uniform", fine_tune=FineTune(3, learn_from="distil")),
        Sparsify(0.9, rounds=3, fine_tune=FineTune(0)),
    ],
)
def test_settings_come_back_from_json_as_they_were(settings: Prune | Sparsify) -> None:
    written = json.dumps(asdict(settings))
    assert TypeAdapter(type(settings)).validate_json(written) == settings


def test_settings_are_overridden_by_field() -> None:
    made = override(Prune(amount=0.5), ["amount=0.25", "criterion=l1", "fine_tune.epochs=3"])
    assert made == Prune(amount=0.25, criterion="l1", fine_tune=FineTune(epochs=3))
    with pytest.raises(ValueError, match="criterion is 'l3'; it is one of l1, l2, bn_scale, taylor, random"):
        override(made, ["criterion=l3"])
    with pytest.raises(ValueError, match=r"amount is None and speedup is None"):
        override(made, ["amount=none"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "amount is None and speedup is None: give one of the two"),
        ({"amount": 0.5, "speedup": 2.0}, r"amount is 0\.5 and speedup is 2\.0"),
        ({"amount": 0.0}, r"amount is 0\.0: it is a share of the channels"),
        ({"amount": 1.0}, r"amount is 1\.0"),
        ({"amount": float("nan")}, "amount is nan"),
        ({"speedup": 1.0}, r"speedup is 1\.0: it must be above 1"),
        ({"speedup": float("nan")}, "speedup is nan"),
        ({"amount": 0.5, "batch_size": 0}, "batch_size is 0"),
        ({"amount": 0.5, "round_to": 0}, "round_to is 0"),
        ({"amount": 0.5, "taylor_rows": 0}, "taylor_rows is 0"),
        ({"amount": 0.5, "rounds": 0}, "rounds is 0"),
    ],
)
def test_a_pruning_that_makes_no_sense_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prune(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"), [({"amount": 1.0}, r"amount is 1\.0"), ({"amount": 0.5, "rounds": 0}, "rounds is 0")]
)
def test_a_sparsity_that_makes_no_sense_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sparsify(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, r"fine_tune\.epochs is -1"),
        ({"lr_share": 0.0}, r"fine_tune\.lr_share is 0\.0"),
        ({"temperature": 0.0}, r"fine_tune\.temperature is 0\.0"),
        ({"soft_share": 1.1}, r"fine_tune\.soft_share is 1\.1"),
    ],
)
def test_a_fine_tuning_that_makes_no_sense_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTune(**change)  # type: ignore[arg-type]


def test_rounds_take_the_same_share_each_and_come_to_the_whole_amount() -> None:
    left = [share_left(0.75, done, 4) for done in range(5)]
    assert left[0] == 1 and left[-1] == pytest.approx(0.25)
    assert [b / a for a, b in itertools.pairwise(left)] == pytest.approx([0.25**0.25] * 4)
