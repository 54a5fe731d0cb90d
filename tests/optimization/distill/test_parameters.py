import json
from pathlib import Path
from typing import Any

import pytest

from optimization.distill.parameters import Distill, Hint
from optimization.distill.student import lesson_of
from training.recipe import override


def test_parameters_go_through_json() -> None:
    made = Distill(
        "digits_student",
        ("epochs=3",),
        "w.pt",
        "dist",
        2.0,
        0.5,
        2.0,
        1.0,
        (Hint("layer2", "4"), Hint("layer3", "5")),
        0.3,
    )
    assert Distill.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert Distill.from_json({}) == Distill()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "mse"}, "objective is 'mse': it is one of kl, dist"),
        ({"temperature": 0.0}, r"temperature is 0\.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"soft_share": 1.5}, r"soft_share is 1\.5"),
        ({"soft_share": -0.5}, r"soft_share is -0\.5"),
        ({"hint_weight": -1.0}, r"hint_weight is -1\.0"),
        ({"intra_weight": float("inf")}, "intra_weight is inf"),
        ({"objective": "dist", "inter_weight": 0.0, "intra_weight": 0.0}, "are both 0"),
        ({"temprature": 3.0}, "temprature"),
        ({"temperature": "warm"}, "cannot be read"),
        ({"hints": [{"teacher": "a"}]}, "cannot be read"),
        ({"hints": [{"teacher": "a", "student": ""}]}, "TEACHER_LAYER:STUDENT_LAYER"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distill.from_json(change)


def test_a_hint_is_written_with_a_colon() -> None:
    assert Hint.parse("layer3.2.conv1:features.4") == Hint("layer3.2.conv1", "features.4")
    with pytest.raises(ValueError, match="name a layer of the teacher and one of the student"):
        Hint.parse("layer3")


def test_the_students_recipe_is_that_of_the_parameters_and_learns_the_teachers_task() -> None:
    recipe = Distill("digits_student", ("epochs=3", "optimizer.lr=0.5")).recipe("fashion_mnist_student", {"a": 1})
    assert (recipe.task, recipe.epochs, recipe.optimizer.lr) == ("digits", 3, 0.5)
    assert recipe.task_params == {"a": 1}
    assert Distill().recipe("fashion_mnist_student", {}).task == "fashion_mnist"
    with pytest.raises(ValueError, match="recipe 'nobody' is not one of"):
        Distill("nobody").recipe("digits_student", {})


def test_parameters_are_set_by_field_as_a_recipes_are() -> None:
    assert override(Distill(), ["temperature=2", "objective=dist"]) == Distill(objective="dist", temperature=2.0)
    with pytest.raises(ValueError, match="objective is 'mse'; it is one of kl, dist"):
        override(Distill(), ["objective=mse"])
    with pytest.raises(ValueError, match="unknown setting 'heat'"):
        override(Distill(), ["heat=2"])


def test_a_lesson_is_known_by_what_it_begins_with_and_not_by_where_that_lies(tmp_path: Path) -> None:
    for name, content in (("one", b"weights"), ("same", b"weights"), ("other", b"more weights")):
        (tmp_path / f"{name}.th").write_bytes(content)
    one, same, other = (
        lesson_of(Distill("digits_student", ("epochs=3",), init_from=str(tmp_path / f"{name}.th")))
        for name in ("one", "same", "other")
    )
    assert one == same != other
    assert str(tmp_path) not in json.dumps(one)
    assert lesson_of(Distill())["init_from"] == ""
    with pytest.raises(ValueError, match=r"absent\.th: there is neither a file of weights nor an Artifact"):
        lesson_of(Distill(init_from=str(tmp_path / "absent.th")))
