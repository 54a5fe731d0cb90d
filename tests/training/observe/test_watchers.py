"""What looks on while a training runs: where its time goes, its log, its events and its trace."""

import itertools
import json
import time
from pathlib import Path
from typing import Any, cast

import pytest
from torch import Tensor
from torch.nn import functional

from tests.toys import image_recipe, images
from training.loop.fit import fit
from training.loop.watcher import Watcher
from training.models.architecture import build
from training.observe.gpu import GpuUse
from training.observe.json_log import JsonLog
from training.observe.profile import Profile
from training.observe.tensorboard import TensorBoard
from training.observe.timing import Timing
from training.recipe import override
from training.task import Source


def _train(*watchers: Watcher, slow_loss_s: float = 0.0) -> None:
    task, recipe = images(Source()), override(image_recipe(), ["epochs=3"])

    def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        time.sleep(slow_loss_s)
        return functional.cross_entropy(logits, labels)

    module = build(recipe.architecture, task.encoding)
    fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"], loss=loss, watchers=watchers)


def test_time_is_counted_where_it_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = Timing()
    _train(timing, slow_loss_s=0.1)
    assert timing.breakdown.share("forward") > 0.5
    assert timing.breakdown.seconds["forward"] >= 18 * 0.1

    from training.loop.batches import Batches

    read = Batches._read
    monkeypatch.setattr(Batches, "_read", lambda *arguments: (time.sleep(0.1), read(*arguments))[1])
    timing = Timing()
    _train(timing)
    assert timing.breakdown.verdict().startswith("data-bound")


def test_a_watchers_own_time_is_that_of_keeping() -> None:
    class Slow(Watcher):
        def step(self, *arguments: object) -> None:
            time.sleep(0.1)

    timing = Timing()
    _train(timing, Slow())
    assert timing.breakdown.verdict().startswith("checkpoint-bound")


def test_the_log_is_one_json_object_a_line(tmp_path: Path) -> None:
    _train(JsonLog(tmp_path / "log.jsonl", "run"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["begin", "epoch", "epoch", "epoch", "end"]
    assert {line["run"] for line in lines} == {"run"}
    assert lines[-1]["at"] == [4, 0]
    assert lines[-1]["finished"] is True
    assert lines[1]["val_accuracy"] <= 1
    assert "bound" in lines[-1]["verdict"]


def test_tensorboard_finds_the_figures_of_each_epoch(tmp_path: Path) -> None:
    _train(TensorBoard(tmp_path))
    (events,) = tmp_path.iterdir()
    content = events.read_bytes()
    for name in (b"loss/train", b"accuracy/val", b"time/forward_share"):
        assert content.count(name) == 3
    assert b"gpu/" not in content


def test_tensorboard_finds_what_the_gpu_did_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.observe.gpu.gpu_figures", lambda: {"gpu_utilization": 0.9, "gpu_memory_bytes": 2e9})
    _train(TensorBoard(tmp_path))
    (events,) = tmp_path.iterdir()
    content = events.read_bytes()
    for name in (b"gpu/utilization", b"gpu/memory_bytes"):
        assert content.count(name) == 3


def test_an_epochs_gpu_utilization_is_the_mean_over_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of memory the last look tells the peak."""
    looks = iter([0.4, 0.5, 0.9, 0.2])
    memory = itertools.count(1)
    monkeypatch.setattr(
        "training.observe.gpu.gpu_figures",
        lambda: {"gpu_utilization": next(looks), "gpu_memory_bytes": float(next(memory))},
    )
    monkeypatch.setattr("training.observe.gpu.LOOK_EVERY_S", 0.0)
    gpu, anything = GpuUse(), cast(Any, None)
    gpu.step(anything, anything)
    gpu.step(anything, anything)
    assert gpu.take() == {"gpu_utilization": pytest.approx(0.6), "gpu_memory_bytes": 3.0}
    assert gpu.take() == {"gpu_utilization": 0.2, "gpu_memory_bytes": 4.0}


def test_a_gpu_whose_driver_is_not_asked_tells_its_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.observe.gpu.gpu_figures", lambda: {"gpu_memory_bytes": 7.0})
    assert GpuUse().take() == {"gpu_memory_bytes": 7.0}


def test_what_is_kept_at_an_epochs_end_takes_time_too() -> None:
    class Slow(Watcher):
        def epoch(self, *arguments: object) -> None:
            time.sleep(0.5)

    timing = Timing()
    _train(timing, Slow())
    assert timing.breakdown.seconds["checkpoint"] >= 3 * 0.5
    assert timing.breakdown.verdict().startswith("checkpoint-bound")


@pytest.mark.slow
def test_a_trace_holds_the_operations_of_some_steps(tmp_path: Path) -> None:
    _train(Profile(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert "aten::conv2d" in names
    assert any(str(name).startswith("Optimizer.step") for name in names)
