import dataclasses

import pytest
import torch

from tests.toys import IMAGES, TEXTS
from training.models.architecture import BUILT_IN, Architecture, build


def test_a_model_of_ones_own_is_built_by_module_and_callable() -> None:
    module = build(Architecture("tests.toys:dense", {"hidden": 5}), IMAGES)
    assert module(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape == (2, 3)
    assert [parameter.shape[0] for parameter in module.parameters()] == [5, 5, 3, 3]


def test_an_unknown_model_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=f"'vgg' is not one of {', '.join(BUILT_IN)} nor a module:callable"):
        build(Architecture("vgg"), IMAGES)


def test_an_unknown_callable_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'tests.toys:net' names neither"):
        build(Architecture("tests.toys:net"), IMAGES)


@pytest.mark.parametrize("params", [{"widths": [8], "depth": 3}, {}])
def test_parameters_that_a_model_does_not_take_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"model 'convnet' with parameters .*: convnet"):
        build(Architecture("convnet", params), IMAGES)


@pytest.mark.parametrize(
    ("name", "params", "encoding"),
    [
        ("convnet", {"widths": [8]}, TEXTS),
        ("resnet", {"widths": [8]}, TEXTS),
        ("lstm", {"vocabulary": 9, "embedding": 4, "hidden": 4}, IMAGES),
        ("bag_of_embeddings", {"vocabulary": 9, "embedding": 4, "hidden": 4}, IMAGES),
    ],
)
def test_a_model_refuses_an_encoding_of_the_other_kind(name: str, params: dict[str, object], encoding: object) -> None:
    with pytest.raises(ValueError, match=r"model needs an? (text|image) Encoding, not one of kind"):
        build(Architecture(name, params), encoding)


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Architecture("convnet").name = "resnet"  # type: ignore[misc]
