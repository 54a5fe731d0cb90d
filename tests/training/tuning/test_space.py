import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toys import image_recipe
from training.recipe import Recipe, override
from training.tuning.space import Range, parse_space, settings

RANGES = (
    "optimizer.lr=log:1e-4..1e-1",
    "schedule.warmup=lin:0..0.5",
    "epochs=int:2..10",
    "batch_size=log:8..64",
    "optimizer.name=choice:sgd,adamw",
    "architecture.params.widths=choice:8|8,16",
)


@pytest.fixture
def recipe() -> Recipe:
    return image_recipe()


def test_every_point_makes_a_recipe_and_lies_in_its_ranges(recipe: Recipe) -> None:
    space = parse_space(recipe, RANGES)
    points = [space.sample(3, number) for number in range(200)]
    for point in points:
        made = override(recipe, settings(point))
        assert 1e-4 <= made.optimizer.lr <= 1e-1
        assert 0 <= made.schedule.warmup <= 0.5
        assert made.epochs in range(2, 11)
        assert made.batch_size in range(8, 65)
        assert made.optimizer.name in ("sgd", "adamw")
        assert made.architecture.params["widths"] in ([8], [8, 16])
        assert made.optimizer.lr == point["optimizer.lr"]
    assert {point["epochs"] for point in points} == set(range(2, 11))


def test_a_log_range_is_drawn_evenly_over_its_decades(recipe: Recipe) -> None:
    space = parse_space(recipe, ["optimizer.lr=log:1e-4..1e-1"])
    decades = [math.floor(math.log10(float(space.sample(0, number)["optimizer.lr"]))) for number in range(3000)]
    assert all(abs(decades.count(decade) / 3000 - 1 / 3) < 0.04 for decade in (-4, -3, -2))


def test_the_point_of_a_trial_depends_on_seed_and_number_alone(recipe: Recipe) -> None:
    space = parse_space(recipe, RANGES)
    assert space.sample(0, 5) == parse_space(recipe, RANGES).sample(0, 5)
    assert space.sample(0, 5) != space.sample(0, 6)
    assert space.sample(0, 5) != space.sample(1, 5)


def test_drawn_numbers_are_short(recipe: Recipe) -> None:
    value = parse_space(recipe, RANGES).sample(0, 0)["optimizer.lr"]
    assert value == float(f"{value:.4g}")


def test_a_grid_has_every_combination(recipe: Recipe) -> None:
    space = parse_space(recipe, ["optimizer.lr=log:1e-4..1e-2", "epochs=int:2..3", "optimizer.name=choice:sgd,adamw"])
    points = space.grid(3)
    assert len(points) == 3 * 2 * 2
    assert len({tuple(point.values()) for point in points}) == 12
    assert sorted({point["optimizer.lr"] for point in points}) == [1e-4, 1e-3, 1e-2]
    assert {point["epochs"] for point in points} == {2, 3}


def test_a_grid_of_many_whole_numbers_has_both_ends() -> None:
    assert Range("epochs", "int", 2, 100).grid(3) == [2, 51, 100]
    assert Range("epochs", "int", 2, 2).grid(3) == [2]


@given(seed=st.integers(0, 10_000))
def test_a_perturbed_point_stays_in_its_ranges_and_moves(seed: int) -> None:
    space = parse_space(image_recipe(), RANGES)
    generator = np.random.default_rng(seed)
    point = space.sample(seed, 0)
    moved = space.perturb(point, generator)
    override(image_recipe(), settings(moved))
    for one in space.ranges:
        assert 0 <= one.share(moved[one.field]) <= 1
    assert type(moved["batch_size"]) is int


def test_perturbing_steps_by_a_fifth_or_draws_anew() -> None:
    one = Range("optimizer.lr", "log", 1e-6, 1.0)
    generator = np.random.default_rng(0)
    moved = [one.perturb(1e-3, generator) for _ in range(1000)]
    stepped = [value for value in moved if value in (0.0008, 0.0012)]
    assert 0.7 < len(stepped) / len(moved) < 0.8
    small = Range("epochs", "int", 1, 9)
    assert {small.perturb(2, generator) for _ in range(100)} >= {1, 3}
    choice = Range("x", "choice", choices=("a", "b", "c", "d", "e"))
    neighbours = [choice.perturb("c", generator) for _ in range(1000)]
    assert sum(value in "bd" for value in neighbours) > 750


@given(share=st.floats(0, 1))
def test_share_is_the_inverse_of_at(share: float) -> None:
    for one in (Range("a", "log", 1e-5, 1e-1), Range("b", "lin", -2.0, 3.0)):
        assert one.share(one.at(share)) == pytest.approx(share, abs=1e-3)
    choice = Range("c", "choice", choices=("x", "y"))
    assert choice.at(choice.share("y")) == "y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr", "cannot be read: write FIELD=log"),
        ("optimizer.lr=exp:1..2", "cannot be read: write FIELD=log"),
        ("optimizer.lr=log:1e-4", "'1e-4' is not LOW..HIGH"),
        ("optimizer.lr=log:1e-1..1e-4", "does not run from a lower"),
        ("optimizer.lr=log:0..1", "a log range begins above 0"),
        ("optimizer.lr=lin:0..inf", "does not run from a lower"),
        ("optimizer.speed=lin:0..1", "unknown setting 'optimizer.speed'"),
        ("optimizer.name=choice:sgd,adam", "optimizer.name is 'adam'; it is one of"),
        ("optimizer.name=choice:sgd,sgd", "names a choice twice"),
        ("batch_size=lin:8..64", "batch_size is a whole number, so write batch_size=int:8..64"),
        ("batch_size=log:8..64.5", "are no whole numbers"),
        ("epochs=int:0..4", "epochs is 0: it must be at least 1"),
        ("schedule.warmup=lin:0..1", "schedule.warmup is 1.0"),
    ],
)
def test_a_wrong_range_is_refused_with_the_reason(recipe: Recipe, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("(", r"\(")):
        parse_space(recipe, [text])


def test_ranges_are_needed_once_a_field(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="needs at least one --range"):
        parse_space(recipe, [])
    with pytest.raises(ValueError, match=r"optimizer\.lr has 2 ranges"):
        parse_space(recipe, ["optimizer.lr=log:1e-4..1e-3", "optimizer.lr=log:1e-3..1e-2"])


def test_a_parameter_of_the_model_may_be_varied(recipe: Recipe) -> None:
    space = parse_space(recipe, ["architecture.params.dropout=lin:0..0.5"])
    made = override(recipe, settings(space.sample(0, 0)))
    assert made == dataclasses.replace(
        recipe,
        architecture=dataclasses.replace(
            recipe.architecture, params={**recipe.architecture.params, "dropout": made.architecture.params["dropout"]}
        ),
    )
    assert 0 < made.architecture.params["dropout"] < 0.5
