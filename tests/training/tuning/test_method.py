import pytest

from tests.toys import image_recipe
from training.tuning.method import Method
from training.tuning.space import Space, parse_space


def space(*texts: str) -> Space:
    return parse_space(image_recipe(), texts or ["optimizer.lr=log:1e-4..1e-1"])


def test_halving_decides_at_rungs_and_a_population_at_intervals() -> None:
    assert Method("asha", grace=2, reduction=3).decisions(30) == (2, 6, 18)
    assert Method("hyperband").decisions(9) == (1, 3)
    assert Method("pbt", interval=4).decisions(12) == (4, 8)
    assert Method("random").decisions(30) == ()


def test_a_method_with_nothing_to_decide_is_refused() -> None:
    with pytest.raises(ValueError, match="asha has nothing to decide: trials of 4 epochs end before grace 4"):
        Method("asha", grace=4).require_fitting(space(), 12, epochs=4)
    with pytest.raises(ValueError, match=r"end before interval 8; lower --interval"):
        Method("pbt", interval=8).require_fitting(space(), 4, epochs=8)
    Method("random", grace=4).require_fitting(space(), 12, epochs=4)


@pytest.mark.parametrize("text", ["batch_size=int:8..64", "epochs=int:2..9", "architecture.params.widths=choice:8|16"])
def test_a_population_refuses_what_cannot_change_while_training(text: str) -> None:
    field = text.partition("=")[0]
    with pytest.raises(ValueError, match=f"{field} cannot be: it may vary optimizer.lr.*by asha"):
        Method("pbt").require_fitting(space(text, "optimizer.lr=log:1e-4..1e-1"), 4, epochs=9)
    Method("asha").require_fitting(space(text), 4, epochs=9)


def test_a_population_takes_what_can_change() -> None:
    fine = space("optimizer.lr=log:1e-4..1e-1", "augmentation.shift=lin:0..0.2", "optimizer.weight_decay=log:1e-4..0.1")
    Method("pbt").require_fitting(fine, 4, epochs=9)
    with pytest.raises(ValueError, match="begin above 0"):
        Method("pbt").require_fitting(space("optimizer.weight_decay=lin:0..0.1"), 4, epochs=9)
    with pytest.raises(ValueError, match="nobody to copy"):
        Method("pbt").require_fitting(fine, 1, epochs=9)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="grace 0"):
        Method("asha", grace=0)
    with pytest.raises(ValueError, match="reduction is 1"):
        Method("asha", reduction=1)
    with pytest.raises(ValueError, match="no way to search"):
        Method("annealing")  # type: ignore[arg-type]
