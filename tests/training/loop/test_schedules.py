import dataclasses
import io
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from tests.toys import image_recipe
from training.loop.schedules import Schedule, make_schedule
from training.recipe import Recipe
from training.recipe import Schedule as Choice

STEPS = 40
CHOICES = [
    Choice("cosine", warmup=0.25),
    Choice("linear", warmup=0.25),
    Choice("constant", warmup=0.25),
    Choice("one_cycle", warmup=0.25),
    Choice("step", warmup=0.25),
    Choice("plateau", warmup=0.25, patience=2, factor=0.5),
]
NAMES = [choice.name for choice in CHOICES]


def _optimizer(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **more: Any) -> torch.optim.Optimizer:
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    return kind([{"params": [matrix]}, {"params": [bias], "lr": 0.02}], **{"lr": 0.1, **more})  # type: ignore[call-arg]


def _recipe(choice: Choice) -> Recipe:
    return dataclasses.replace(image_recipe(), schedule=choice)


def _rates(schedule: Schedule, steps: int = STEPS) -> list[list[float]]:
    """The rates that each step is taken at."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.rates())
        schedule.step()
    return rates


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.name != "one_cycle"], ids=lambda c: c.name)
def test_rates_warm_up_along_a_line_to_the_peak(choice: Choice) -> None:
    rates = [rate for rate, _ in _rates(make_schedule(_recipe(choice), _optimizer(), STEPS))]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(0.1)


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
def test_every_group_keeps_its_share_of_the_rate(choice: Choice) -> None:
    for first, second in _rates(make_schedule(_recipe(choice), _optimizer(), STEPS)):
        assert second == pytest.approx(first / 5)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("cosine", lambda progress: 0.5 * (1 + math.cos(math.pi * progress))),
        ("linear", lambda progress: 1 - progress),
        ("constant", lambda progress: 1.0),
    ],
)
def test_after_the_warm_up_rates_fall_as_torchs_lambda_schedule_says(name: Any, share: Any) -> None:
    rates = _rates(make_schedule(_recipe(Choice(name, warmup=0.25)), _optimizer(), STEPS))
    optimizer = _optimizer()
    reference = LambdaLR(optimizer, lambda step: (step + 1) / 10 if step < 10 else share((step - 10) / 30))
    for both in rates:
        assert both == [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        reference.step()


def test_steps_fall_at_their_shares_of_all_steps() -> None:
    choice = Choice("step", warmup=0.0, factor=0.1, drops=(0.5, 0.75))
    rates = [rate for rate, _ in _rates(make_schedule(_recipe(choice), _optimizer(), STEPS))]
    assert rates == pytest.approx([0.1] * 20 + [0.01] * 10 + [0.001] * 10)


@pytest.mark.parametrize(
    ("kind", "more"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"betas": (0.9, 0.99)})]
)
def test_one_cycle_is_torchs(kind: type[torch.optim.Optimizer], more: dict[str, Any]) -> None:
    optimizer, other = _optimizer(kind, **more), _optimizer(kind, **more)
    schedule = make_schedule(_recipe(Choice("one_cycle", warmup=0.25)), optimizer, STEPS)
    reference = OneCycleLR(other, max_lr=[0.1, 0.02], total_steps=STEPS, pct_start=0.25)
    for step in range(STEPS):
        for mine, theirs in zip(optimizer.param_groups, other.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(theirs["lr"], abs=1e-12)
            assert mine.get("momentum") == pytest.approx(theirs.get("momentum"))
            assert mine.get("betas", (0, 0)) == pytest.approx(theirs.get("betas", (0, 0)))
        other.step()
        if step < STEPS - 1:
            reference.step()
        schedule.step()


def test_one_cycle_gives_no_momentum_to_who_has_none() -> None:
    optimizer = _optimizer(momentum=0.0)
    schedule = make_schedule(_recipe(Choice("one_cycle")), optimizer, STEPS)
    _rates(schedule)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.0}


def test_other_schedules_leave_the_momentum_alone() -> None:
    optimizer = _optimizer(momentum=0.9)
    _rates(make_schedule(_recipe(Choice("cosine")), optimizer, STEPS))
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_on_a_plateau_of_val_loss_rates_fall() -> None:
    schedule = make_schedule(_recipe(Choice("plateau", warmup=0.0, patience=2, factor=0.5)), _optimizer(), STEPS)
    rates = []
    for val_loss in (1.0, 0.9, 0.95, 0.89, 0.9, 0.9, 0.9, 0.9, math.nan, 0.5):
        schedule.step()
        schedule.epoch_end(val_loss)
        rates.append(schedule.rates()[0])
    assert rates == pytest.approx([0.1] * 5 + [0.05] * 2 + [0.025] * 3)


def test_val_losses_change_no_other_schedule() -> None:
    plain, told = (make_schedule(_recipe(Choice("cosine")), _optimizer(), STEPS) for _ in range(2))
    for _ in range(STEPS):
        told.epoch_end(1.0)
        assert plain.rates() == told.rates()
        plain.step()
        told.step()


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
@pytest.mark.parametrize("stop", [3, 17])
def test_a_loaded_schedule_goes_on_as_the_uninterrupted_one(choice: Choice, stop: int) -> None:
    def run(schedule: Schedule, first: int, last: int) -> None:
        for step in range(first, last):
            schedule.step()
            if step % 4 == 3:
                schedule.epoch_end(1.0)

    optimizer = _optimizer(momentum=0.9)
    schedule = make_schedule(_recipe(choice), optimizer, STEPS)
    run(schedule, 0, stop)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh = _optimizer(momentum=0.9)
    resumed = make_schedule(_recipe(choice), fresh, STEPS)
    fresh.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["schedule"])
    for step in range(stop, STEPS):
        assert resumed.rates() == schedule.rates()
        assert [g["momentum"] for g in fresh.param_groups] == [g["momentum"] for g in optimizer.param_groups]
        run(schedule, step, step + 1)
        run(resumed, step, step + 1)
    assert resumed.state_dict() == schedule.state_dict()
