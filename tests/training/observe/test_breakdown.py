import pytest

from training.observe.breakdown import Breakdown
from training.observe.clock import Phase


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        ({"data": 41, "forward": 30, "backward": 29}, "data-bound: 41% waiting for batches"),
        ({"communication": 20, "forward": 40, "backward": 40}, "communication-bound: 20% waiting for gradients"),
        ({"checkpoint": 30, "forward": 70}, "checkpoint-bound: 30% keeping the state"),
        (
            {"data": 5, "forward": 40, "backward": 45, "optimizer": 10},
            "compute-bound: 95% of the time is the model's own",
        ),
        ({}, "no step was timed"),
    ],
)
def test_the_verdict_names_what_held_the_training_back(seconds: dict[Phase, float], verdict: str) -> None:
    assert Breakdown(seconds).verdict().startswith(verdict)


def test_validation_is_no_part_of_the_steps() -> None:
    breakdown = Breakdown({"forward": 3, "backward": 1, "validation": 100})
    assert breakdown.share("forward") == 0.75
    assert "time/validation_share" not in breakdown.metrics()
    assert sum(breakdown.metrics().values()) == pytest.approx(1)
