"""The named recipes. A task's student recipe is its name with `_student` behind it."""

import dataclasses
from collections.abc import Callable

from training.models.architecture import Architecture
from training.recipe import Augmentation, Optimizer, Recipe
from training.task import load_callable


def digits() -> Recipe:
    return Recipe(
        task="digits",
        architecture=Architecture("convnet", {"widths": [32, 64, 128], "blocks": 2, "dropout": 0.2}),
        epochs=30,
        batch_size=50,
        optimizer=Optimizer("adamw", lr=4e-3, weight_decay=0.05),
        augmentation=Augmentation(shift=0.1, rotate_degrees=10, scale=0.1),
        label_smoothing=0.05,
    )


def digits_student() -> Recipe:
    return Recipe(
        task="digits",
        architecture=Architecture("convnet", {"widths": [16, 32, 48]}),
        epochs=40,
        batch_size=50,
        optimizer=Optimizer("adamw", lr=8e-3, weight_decay=0.01),
        augmentation=Augmentation(shift=0.1, rotate_degrees=10, scale=0.1),
    )


def fashion_mnist() -> Recipe:
    return Recipe(
        task="fashion_mnist",
        architecture=Architecture("resnet", {"widths": [32, 64, 128]}),
        epochs=12,
        batch_size=128,
        optimizer=Optimizer("adamw", lr=4e-3, weight_decay=0.05),
        augmentation=Augmentation(shift=0.04, flip=True),
        label_smoothing=0.05,
        precision="bf16",
    )


def fashion_mnist_student() -> Recipe:
    return Recipe(
        task="fashion_mnist",
        architecture=Architecture("resnet", {"widths": [16, 32, 64]}),
        epochs=10,
        batch_size=128,
        optimizer=Optimizer("adamw", lr=6e-3, weight_decay=0.02),
        augmentation=Augmentation(shift=0.04, flip=True),
        precision="bf16",
    )


def cifar10() -> Recipe:
    return Recipe(
        task="cifar10",
        architecture=Architecture("resnet", {"widths": [32, 64, 128, 256]}),
        epochs=20,
        batch_size=128,
        optimizer=Optimizer("sgd", lr=0.15, weight_decay=5e-4),
        augmentation=Augmentation(shift=0.125, flip=True),
        label_smoothing=0.1,
        precision="bf16",
    )


def cifar10_student() -> Recipe:
    return Recipe(
        task="cifar10",
        architecture=Architecture("resnet", {"widths": [16, 32, 64]}),
        epochs=20,
        batch_size=128,
        optimizer=Optimizer("sgd", lr=0.15, weight_decay=5e-4),
        augmentation=Augmentation(shift=0.125, flip=True),
        precision="bf16",
    )


def ag_news() -> Recipe:
    sizes = {"vocabulary": 16_000, "embedding": 64, "hidden": 64, "pairs": 2**18, "dropout": 0.4, "word_dropout": 0.6}
    return Recipe(
        task="ag_news",
        architecture=Architecture("lstm", sizes),
        epochs=6,
        batch_size=128,
        optimizer=Optimizer("adamw", lr=4e-3, weight_decay=0.1),
        label_smoothing=0.1,
        ema_decay=0.995,
        batch_by_length=True,
    )


def ag_news_transformer() -> Recipe:
    sizes = {"vocabulary": 16_000, "width": 128, "layers": 2, "heads": 4, "wide": True, "pairs": 2**18}
    return Recipe(
        task="ag_news",
        architecture=Architecture("transformer", {**sizes, "dropout": 0.3, "word_dropout": 0.4}),
        epochs=8,
        batch_size=128,
        optimizer=Optimizer("adamw", lr=2e-3, weight_decay=0.1),
        label_smoothing=0.1,
        ema_decay=0.995,
        batch_by_length=True,
    )


def ag_news_transformer_student() -> Recipe:
    return ag_news_student()


def ag_news_student() -> Recipe:
    return Recipe(
        task="ag_news",
        architecture=Architecture(
            "bag_of_embeddings", {"vocabulary": 16_000, "embedding": 64, "hidden": 64, "dropout": 0.3}
        ),
        epochs=8,
        batch_size=128,
        optimizer=Optimizer("adamw", lr=4e-3, weight_decay=0.01),
    )


def image_folder() -> Recipe:
    """Where to begin with pictures of one's own; `task_params` says their size and `augmentation` what they bear."""
    return Recipe(
        task="image_folder",
        architecture=Architecture("resnet", {"widths": [32, 64, 128, 256]}),
        epochs=20,
        batch_size=64,
        optimizer=Optimizer("adamw", lr=2e-3, weight_decay=0.05),
        augmentation=Augmentation(shift=0.1, flip=True),
        label_smoothing=0.1,
    )


def image_folder_student() -> Recipe:
    return dataclasses.replace(image_folder(), architecture=Architecture("resnet", {"widths": [16, 32, 64]}))


def image_table() -> Recipe:
    return dataclasses.replace(image_folder(), task="image_table")


def image_table_student() -> Recipe:
    return dataclasses.replace(image_folder_student(), task="image_table")


def text_table() -> Recipe:
    return dataclasses.replace(ag_news(), task="text_table")


def text_table_student() -> Recipe:
    return dataclasses.replace(ag_news_student(), task="text_table")


BUILT_IN: dict[str, Callable[[], Recipe]] = {
    made.__name__: made
    for made in (
        digits,
        digits_student,
        fashion_mnist,
        fashion_mnist_student,
        cifar10,
        cifar10_student,
        ag_news,
        ag_news_student,
        ag_news_transformer,
        ag_news_transformer_student,
        image_folder,
        image_folder_student,
        image_table,
        image_table_student,
        text_table,
        text_table_student,
    )
}


def load_recipe(reference: str) -> Recipe:
    """A named recipe, or the user's own by `module:callable`; raises ValueError listing the names there are."""
    if ":" not in reference:
        if reference not in BUILT_IN:
            raise ValueError(f"recipe {reference!r} is not one of {', '.join(BUILT_IN)} nor a module:callable")
        return BUILT_IN[reference]()
    recipe = load_callable(reference, "training.recipes", "")()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{reference!r} returned a {type(recipe).__name__}, not a Recipe")
    return recipe
