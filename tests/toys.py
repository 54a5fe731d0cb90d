"""Toy learning problems that a tiny model solves in a second, as Tasks, Recipes and Artifacts.

Each loader is a module:callable, so that whatever loads a Task by its reference can load these.
"""

import dataclasses
from pathlib import Path

import numpy as np

from training.artifact import Artifact
from training.data.tokenizer import train_tokenizer
from training.encoding import ImageEncoding, TextEncoding
from training.models.architecture import Architecture, build
from training.module import write_torch as write_weights
from training.recipe import Optimizer, Recipe
from training.task import SPLIT_NAMES, Source, Split, Task
from training.tasks.digits import load as load_digits

IMAGES = ImageEncoding(height=4, width=4, channels=1, labels=("top", "middle", "bottom"))
TEXTS = TextEncoding(max_tokens=8, labels=("calm", "wild"))
WORDS = "sea sun wind storm rock bird wave sand"
VOCABULARY = 40
ROWS = {"train": 120, "val": 60, "calibration": 60, "gate": 60, "report": 60}


def images(source: Source) -> Task:
    """Grey noise with one bright line: its row is the class."""
    del source
    random = np.random.default_rng(7)
    splits = {}
    for name in SPLIT_NAMES:
        labels = random.integers(0, 3, ROWS[name])
        pixels = random.integers(0, 80, (ROWS[name], 1, 4, 4))
        pixels[np.arange(ROWS[name]), 0, labels] += 150
        splits[name] = Split(pixels.astype(np.uint8), labels)
    return Task("toy_images", IMAGES, splits, margin=0.1)


def digits(source: Source) -> Task:
    """The digits under a gate so wide that a briefly trained student passes it for certain."""
    return dataclasses.replace(load_digits(source), name="toy_digits", margin=0.15)


def texts(source: Source) -> Task:
    """Two to eight words; a text with a storm in it is wild."""
    del source
    files = {TEXTS.tokenizer_file: train_tokenizer([WORDS] * 4, VOCABULARY)}
    encoder = Task("words", TEXTS, dict.fromkeys(SPLIT_NAMES, _one_text()), files=files).encoder()
    words, storm = [word for word in WORDS.split() if word != "storm"], "storm"
    random = np.random.default_rng(7)
    splits = {}
    for name in SPLIT_NAMES:
        lines = [list(random.choice(words, random.integers(2, 9))) for _ in range(ROWS[name])]
        labels = random.integers(0, 2, ROWS[name])
        for line, label in zip(lines, labels, strict=True):
            if label:
                line[random.integers(len(line))] = storm
        tokens = np.zeros((ROWS[name], TEXTS.max_tokens), np.int64)
        for row, ids in zip(tokens, encoder.encode_texts([" ".join(line) for line in lines]), strict=True):
            row[: len(ids)] = ids
        splits[name] = Split(tokens, labels)
    return Task("toy_texts", TEXTS, splits, margin=0.1, files=files)


def _one_text() -> Split:
    return Split(np.ones((1, TEXTS.max_tokens), np.int64), np.zeros(1, np.int64))


def image_recipe() -> Recipe:
    return Recipe(
        task="tests.toys:images",
        architecture=Architecture("convnet", {"widths": [8, 16]}),
        epochs=4,
        batch_size=20,
        optimizer=Optimizer("adamw", lr=1e-2),
    )


def image_recipe_student() -> Recipe:
    return Recipe(
        task="tests.toys:images",
        architecture=Architecture("convnet", {"widths": [8]}),
        epochs=4,
        batch_size=20,
        optimizer=Optimizer("adamw", lr=2e-2),
    )


def digits_recipe() -> Recipe:
    return Recipe(
        task="tests.toys:digits",
        architecture=Architecture("convnet", {"widths": [24, 48, 96]}),
        epochs=8,
        batch_size=50,
        optimizer=Optimizer("adamw", lr=8e-3),
    )


def digits_recipe_student() -> Recipe:
    return dataclasses.replace(digits_recipe(), architecture=Architecture("convnet", {"widths": [16, 32, 48]}))


def dense(encoding: ImageEncoding, hidden: int = 16) -> object:
    """A model without batch statistics or dropout, whose gradient is exactly the mean over its rows."""
    from torch import nn

    from training.models.vision import Scale

    pixels = encoding.channels * encoding.height * encoding.width
    return nn.Sequential(
        Scale(), nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, len(encoding.labels))
    )


def write_torch(
    folder: Path, task: Task, architecture: Architecture, seed: int = 0, variant: str = "teacher", reference: str = ""
) -> Artifact:
    """An untrained model of `task`, which `reference` loads, as a "torch" Artifact."""
    import torch

    torch.manual_seed(seed)
    weights = build(architecture, task.encoding).state_dict()
    return write_weights(folder, variant, weights, architecture, task, reference)
