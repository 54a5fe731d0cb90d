"""A language model by its folder, fine-tuned on a table of texts by what the training command runs.

The models are tiny and randomly initialized; see tests/language_models.py.
"""

import csv
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.language_models import KINDS, save_language_model, save_tokenizer
from training.launch.job import Compute, Observation
from training.launch.run import run_training
from training.module import load_module, predictor
from training.recipe import Recipe, override
from training.recipes import load_recipe
from training.task import Source, load_task
from training.train import prepare, write_torch_artifact

TOPICS = {"weather": ["rain", "sun", "wind", "snow"], "money": ["shares", "profit", "banks", "oil"]}
FILLING = ["today", "again", "report", "city", "people", "said"]
WORDS = [*TOPICS["weather"], *TOPICS["money"], *FILLING]
PAD_ID = {"bert": 0, "gpt2": 1, "t5": 0}


def _write_table(path: Path, rows: int = 400) -> Path:
    drawn = random.Random(0)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for _ in range(rows):
            topic = drawn.choice(list(TOPICS))
            words = drawn.choices(TOPICS[topic], k=2) + drawn.choices(FILLING, k=drawn.randint(3, 7))
            writer.writerow([" ".join(drawn.sample(words, k=len(words))), topic])
    return path


def _recipe(model: Path) -> Recipe:
    return override(
        load_recipe("text_table"),
        [
            f"architecture=transformers/{model}",
            "architecture.params.pretrained=true",
            f"task_params.tokenizer={model}",
            "task_params.max_tokens=16",
            "task_params.max_skipped=0.5",
            "epochs=4",
            "batch_size=32",
            "optimizer.lr=0.01",
            "ema_decay=0",
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model_is_fine_tuned_on_a_table_of_texts(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tokenizer(save_language_model(tmp_path / kind, kind, seed=3), kind, WORDS)
    source = Source(_write_table(tmp_path / "texts.csv"), reader="local", cache_dir=tmp_path / "cache")
    task, job = prepare(_recipe(model), source, "", Observation(), None)
    assert task.encoding.pad_id == PAD_ID[kind]  # type: ignore[union-attr]
    assert task.files["tokenizer.json"] == (model / "tokenizer.json").read_bytes()

    trained = run_training(job, Compute(local=True, storage=str(tmp_path / "kept")))
    assert f"weights loaded from {model}" in capsys.readouterr().out
    losses = [record.train_loss for record in trained.records]
    assert losses[-1] < losses[0] - 0.1
    assert max(record.val_accuracy for record in trained.records) > 0.9

    artifact = write_torch_artifact(tmp_path / "artifact", "teacher", job.recipe, task, trained, parent=None)
    shutil.rmtree(model)  # what is served needs it no more
    predict, val = predictor(load_module(artifact)), task.splits["val"]
    best = max(trained.records, key=lambda record: (record.val_accuracy, record.epoch))
    assert (predict(val.inputs).argmax(axis=1) == val.labels).mean() == pytest.approx(best.val_accuracy)
    encoded = task.encoder().encode("rain and snow again today")
    assert np.isfinite(predict(encoded[None])).all()


def test_a_model_on_the_hub_is_asked_for_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, file: str) -> str:
        asked.append(name)
        if not (tmp_path / file).exists():
            raise OSError(f"{name} has no {file}")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    save_tokenizer(tmp_path, "gpt2", WORDS)
    source = Source(_write_table(tmp_path / "texts.csv"), reader="local", cache_dir=tmp_path / "cache")
    task = load_task("text_table", source, {"tokenizer": "some/model", "max_tokens": 16, "max_skipped": 0.5})
    assert set(asked) == {"some/model"}
    assert task.encoding.pad_id == 1  # type: ignore[union-attr]
    assert set(np.unique(task.splits["train"].inputs).tolist()) >= {1, *range(2, 2 + len(WORDS))}


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    source = Source(_write_table(tmp_path / "texts.csv"), reader="local", cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"there is nothing at absent\.json"):
        load_task("text_table", source, {"tokenizer": "absent.json"})
