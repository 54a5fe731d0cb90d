import importlib

import numpy as np
import pytest
import torch

from training.encoding import Encoding, ImageEncoding, TextEncoding
from training.models.architecture import build
from training.recipe import Recipe
from training.recipes import BUILT_IN, load_recipe

TEACHERS = [name for name in BUILT_IN if not name.endswith("_student")]


PICTURES = ImageEncoding(64, 64, 3, ("cat", "dog"))
# What a task's own data would say.
OWN_DATA = {"image_folder": PICTURES, "image_table": PICTURES, "text_table": TextEncoding(128, ("spam", "ham"))}


def _encoding(recipe: Recipe) -> Encoding:
    if recipe.task in OWN_DATA:
        return OWN_DATA[recipe.task]
    encoding: Encoding = importlib.import_module(f"training.tasks.{recipe.task}").ENCODING
    return encoding


def _parameters(name: str) -> int:
    recipe = load_recipe(name)
    return sum(p.numel() for p in build(recipe.architecture, _encoding(recipe)).parameters())


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_named_recipes_model_reads_its_tasks_encoding(name: str) -> None:
    recipe = load_recipe(name)
    encoding = _encoding(recipe)
    shape = [3 if size == -1 else size for size in encoding.input_spec.shape]
    batch = np.ones(shape, encoding.input_spec.dtype)
    with torch.inference_mode():
        logits = build(recipe.architecture, encoding).eval()(torch.from_numpy(batch))
    assert logits.shape == (3, len(encoding.labels))
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_has_a_smaller_student_of_its_task(name: str) -> None:
    assert load_recipe(f"{name}_student").task == load_recipe(name).task
    assert _parameters(f"{name}_student") * 1.5 < _parameters(name)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if "news" in name])
def test_a_text_models_vocabulary_holds_every_id_of_its_tokenizer(name: str) -> None:
    recipe = load_recipe(name)
    task = importlib.import_module(f"training.tasks.{recipe.task}")
    assert isinstance(task.ENCODING, TextEncoding)
    assert recipe.architecture.params["vocabulary"] >= task.VOCABULARY_SIZE


def test_a_recipe_of_ones_own_is_loaded_by_module_and_callable() -> None:
    assert load_recipe("tests.toys:image_recipe").task == "tests.toys:images"


def test_an_unknown_recipe_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="'digit' is not one of digits, digits_student,"):
        load_recipe("digit")


def test_a_callable_that_makes_no_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="'builtins:dict' returned a dict, not a Recipe"):
        load_recipe("builtins:dict")
