import re

import pytest

from optimization.runners.profile import ShapeProfile, profile_for
from training.encoding import TensorSpec

IMAGES = TensorSpec("image", "UINT8", (-1, 3, 32, 32))
TOKENS = TensorSpec("tokens", "INT64", (-1, -1))


def test_a_profile_for_a_model_moves_on_its_dynamic_axes_alone() -> None:
    assert profile_for(IMAGES) == ShapeProfile((1, 3, 32, 32), (8, 3, 32, 32), (32, 3, 32, 32))
    assert profile_for(TOKENS, batch=(1, 2, 4), length=(1, 16, 128)) == ShapeProfile((1, 1), (2, 16), (4, 128))


@pytest.mark.parametrize(
    ("low", "usual", "high"),
    [((0, 3), (1, 3), (2, 3)), ((2, 3), (1, 3), (4, 3)), ((1, 3), (5, 3), (4, 3)), ((1, 4), (1, 3), (1, 3))],
)
def test_sizes_out_of_order_are_refused(low: tuple[int, ...], usual: tuple[int, ...], high: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(str(list(low)))}.*1 <= min <= opt <= max"):
        ShapeProfile(low, usual, high)


def test_shapes_of_other_ranks_are_refused() -> None:
    for shapes in (((1,), (1, 2), (1, 2)), ((), (), ())):
        with pytest.raises(ValueError, match="must have the same axes"):
            ShapeProfile(*shapes)


def test_a_profile_admits_what_lies_between_its_ends() -> None:
    profile = ShapeProfile((2, 3), (4, 3), (8, 3))
    assert [rows for rows in range(12) if profile.admits((rows, 3))] == list(range(2, 9))
    assert not profile.admits((4, 2))
    assert not profile.admits((4,))


def test_a_profile_of_another_model_is_refused() -> None:
    profile_for(IMAGES).require_fit(IMAGES)
    with pytest.raises(ValueError, match="has 2 axes, input 'image' has 4"):
        profile_for(TOKENS).require_fit(IMAGES)
    with pytest.raises(ValueError, match="axis 3 of input 'image' is always 32"):
        ShapeProfile((1, 3, 32, 16), (1, 3, 32, 32), (1, 3, 32, 32)).require_fit(IMAGES)
