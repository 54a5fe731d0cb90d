"""A pipeline whose graph is trained for INT8, carried out in this process."""

import dataclasses
from typing import Any

import pytest

from optimization.distill.teacher import TeacherPlace
from optimization.prune.settings import FineTune, Prune
from optimization.quantize.aware_model import is_aware
from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.static import StaticInt8
from optimization.search import making
from optimization.search.making import Made, Workshop, load_made, make
from optimization.search.pipeline import Pipeline
from tests.toys import digits_recipe
from training.models.architecture import Architecture
from training.task import Source

pytestmark = pytest.mark.slow

AWARE = QuantizationAware(epochs=4, lr=4e-3)


@pytest.fixture(scope="module")
def shop(exported_images: Any, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    teacher, task = exported_images.source, exported_images.task
    recipe = dataclasses.replace(digits_recipe(), task=teacher.manifest.task)
    return Workshop(
        TeacherPlace(teacher.folder), recipe, "tests.toys:digits_recipe_student", Source(), (), task.data_hash,
        tmp_path_factory.mktemp("workshop"),
    )  # fmt: skip


def _made(pipeline: Pipeline, share: float, shop: Workshop) -> tuple[Made, list[str]]:
    said: list[str] = []
    made = make(pipeline, share, shop, said.append)
    return made, [line for line in said if not line.startswith("epoch")]  # which slow machines tell of


def test_a_graph_trained_for_int8_is_made_of_what_was_trained_so(shop: Workshop) -> None:
    made, said = _made(Pipeline(quantize=AWARE), 0.5, shop)
    assert said == ["training for INT8 over 2 epochs", "exporting"], "half of the epochs on this rung"
    trained, graph = load_made(made)
    assert is_aware(trained.manifest.architecture)
    assert (trained.manifest.parent, graph.manifest.parent) == (shop.teacher.artifact().digest, trained.digest)
    assert (trained.manifest.variant, graph.manifest.variant) == ("teacher-aware", "teacher-aware-int8")
    assert (graph.manifest.format, graph.manifest.precision) == ("onnx", "int8")
    exact, _ = _made(Pipeline(), 1, shop)
    assert made.accuracy > exact.accuracy - 0.03
    assert made.size_bytes < 0.6 * exact.size_bytes

    again, said = _made(Pipeline(quantize=AWARE), 0.5, shop)
    assert again.digest == made.digest
    assert again.reused == again.stages
    assert said == []
    whole, said = _made(Pipeline(quantize=AWARE), 1, shop)
    assert said == ["training for INT8 over 4 epochs", "exporting"]
    assert whole.digest != made.digest


def test_what_pruning_left_is_trained_for_int8_and_taught_by_itself_in_float(shop: Workshop) -> None:
    pruned = Pipeline(prune=Prune(0.4, fine_tune=FineTune(epochs=1)))
    alone, _ = _made(dataclasses.replace(pruned, quantize=QuantizationAware(epochs=1)), 1, shop)
    taught, said = _made(
        dataclasses.replace(pruned, quantize=QuantizationAware(epochs=1, learn_from="distil")), 1, shop
    )
    assert said == ["training for INT8 over 1 epochs", "exporting"], "it is pruned once"
    assert taught.digest != alone.digest
    thin, trained, _ = load_made(taught)
    assert trained.manifest.parent == thin.digest
    assert trained.manifest.architecture is not None
    assert Architecture.from_json(trained.manifest.architecture.params["of"]) == thin.manifest.architecture


def test_a_teacher_whose_recipe_is_not_known_is_not_trained_for_int8(shop: Workshop) -> None:
    unknown = dataclasses.replace(shop, teacher_recipe=None)
    with pytest.raises(ValueError, match="the teacher is to learn again is not known: give --recipe"):
        make(Pipeline(quantize=AWARE), 1, unknown, print)


def test_a_training_tells_how_far_it_is(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "TOLD_EVERY_S", 0.0)
    said: list[str] = []
    make(Pipeline(quantize=QuantizationAware(epochs=2, lr=1e-3)), 1, shop, said.append)
    assert [line.split()[:2] for line in said] == [
        ["training", "for"],
        ["epoch", "1/2"],
        ["epoch", "2/2"],
        ["exporting"],
    ]
    assert "val accuracy" in said[1]


def test_another_range_is_another_training(shop: Workshop) -> None:
    one, _ = _made(Pipeline(quantize=QuantizationAware(epochs=1)), 1, shop)
    narrow = QuantizationAware(StaticInt8("percentile", percentile=90.0), epochs=1)
    other, said = _made(Pipeline(quantize=narrow), 1, shop)
    assert said[0].startswith("training for INT8")
    assert other.digest != one.digest
