import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimization.measure.latency import Speedup
from optimization.prune import block_selection
from optimization.prune.block_selection import BlockSelector, divergence, find_blocks
from optimization.prune.group import PruneError
from optimization.prune.selection import Selection
from optimization.prune.settings import Prune
from tests.optimization.prune.networks import NETWORKS, network, rows
from training.encoding import Encoding
from training.models.architecture import build
from training.models.blocks import Skipped, without
from training.task import Split, Task

FREE = {
    "resnet": ("2", "3", "5"),
    "resnet20": tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3) if stage == 1 or block),
    "resnet18": ("network.layer1.0", *(f"network.layer{stage}.1" for stage in (1, 2, 3, 4))),
    "transformer": ("layers.0", "layers.1"),
}  # fmt: skip


def _task(name: str) -> Task:
    some = Split(rows(name, 12).numpy(), np.zeros(12, np.int64))
    splits = dict.fromkeys(("train", "val", "calibration", "gate", "report"), some)
    return Task("toy", NETWORKS[name][1], splits, files={"tokenizer.json": b"{}"})


def _select(name: str, module: nn.Module, settings: Prune, number: int = 1) -> Selection:
    return BlockSelector(module, _task(name), settings).select(module, NETWORKS[name][0], number)


def _rebuilt(selection: Selection, encoding: Encoding) -> nn.Module:
    module = build(selection.architecture, encoding).eval()
    module.load_state_dict(dict(selection.weights))
    return module


def _harmless(module: nn.Module, *names: str) -> None:
    """Make these blocks of a ResNet hand on what they read."""
    with torch.no_grad():
        for name in names:
            norms = [part for part in module.get_submodule(name).modules() if isinstance(part, nn.BatchNorm2d)]
            norms[-1].weight.zero_()
            norms[-1].bias.zero_()


@pytest.mark.parametrize("name", FREE)
def test_blocks_that_keep_the_shape_can_go(name: str) -> None:
    module = network(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found, left = find_blocks(module, rows(name))
    assert found == FREE[name]
    assert all(reason == "what it makes has not the shape of what it reads" for reason in left.values())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", FREE)
def test_what_is_left_answers_as_the_whole_one_without_these_blocks(name: str) -> None:
    module = network(name)
    selection = _select(name, module, Prune(amount=0.6, unit="blocks", block_rows=4))
    dropped = selection.architecture.dropped
    assert len(dropped) == round(0.6 * len(FREE[name]))
    assert {block for block, kept in selection.widths.items() if not kept} == set(dropped)
    assert not [key for key in selection.weights if key.startswith(tuple(f"{block}." for block in dropped))]
    with torch.no_grad(), without(module, dropped):
        wanted = module(rows(name))
    with torch.no_grad():
        assert torch.equal(_rebuilt(selection, NETWORKS[name][1])(rows(name)), wanted)


def test_blocks_that_are_not_missed_go_first() -> None:
    module = network("resnet20")
    _harmless(module, "layer1.1", "layer3.2")
    answers = module(rows("resnet20"))
    selection = _select("resnet20", module, Prune(amount=0.3, unit="blocks"))
    assert selection.architecture.dropped == ("layer1.1", "layer3.2")
    assert torch.allclose(_rebuilt(selection, NETWORKS["resnet20"][1])(rows("resnet20")), answers, atol=1e-5)


def test_each_round_takes_a_part_of_the_way() -> None:
    module, settings = network("resnet20"), Prune(amount=0.7, unit="blocks", rounds=2, block_rows=4)
    selector = BlockSelector(module, _task("resnet20"), settings)
    first = selector.select(module, NETWORKS["resnet20"][0], 1)
    second = selector.select(_rebuilt(first, NETWORKS["resnet20"][1]), first.architecture, 2)
    assert (len(first.architecture.dropped), len(second.architecture.dropped)) == (3, 5)
    assert set(first.architecture.dropped) < set(second.architecture.dropped)


def test_blocks_go_until_the_measured_speedup_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network("resnet20")

    class Clock:
        def __init__(self, whole: nn.Module, *_: object) -> None:
            self._whole = _parameters(whole)

        def speedup(self, other: nn.Module) -> Speedup:
            ratio = self._whole / _parameters(other)
            return Speedup(1, ratio, 0.9 * ratio, 1.1 * ratio, 15, 0.95)

    monkeypatch.setattr(block_selection, "Stopwatch", Clock)
    selection = _select("resnet20", module, Prune(speedup=1.3, unit="blocks", block_rows=4))
    *before, last = selection.trials
    assert last.speedup.lower >= 1.3 > max((one.speedup.lower for one in before), default=1.0)
    assert last.counts.parameters == _parameters(_rebuilt(selection, NETWORKS["resnet20"][1]))
    with pytest.raises(PruneError, match=r"without any of its 7 blocks the model is at least .* not 99.00x"):
        _select("resnet20", module, Prune(speedup=99, unit="blocks", block_rows=4))


def test_where_time_is_the_aim_a_block_goes_for_what_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    name, module = "resnet20", network("resnet20")
    (missed_least,) = _select(name, module, Prune(amount=0.15, unit="blocks")).architecture.dropped
    kind = missed_least.partition(".")[0]  # the blocks of a stage have the same shapes

    class Clock:
        """Every block saves half of the time, but for those of the stage of the one that is missed least."""

        def __init__(self, whole: nn.Module, *_: object) -> None: ...

        def speedup(self, other: nn.Module) -> Speedup:
            out = [block for block in FREE[name] if isinstance(other.get_submodule(block), Skipped)]
            ratio = 1 / (0.9999 if out[-1].startswith(kind) else 0.5)
            return Speedup(1, ratio, ratio, ratio, 15, 0.95)

    monkeypatch.setattr(block_selection, "Stopwatch", Clock)
    (dropped,) = _select(name, module, Prune(speedup=1.5, unit="blocks")).architecture.dropped
    assert not dropped.startswith(kind)


def test_sizes_of_layers_in_a_block_go_with_it() -> None:
    name, encoding = "resnet20", NETWORKS["resnet20"][1]
    thinner = {"layer1.1.conv1": (16, 8), "layer1.1.bn1": (8, 8), "layer1.1.conv2": (8, 16),
               "layer2.1.conv1": (32, 8), "layer2.1.bn1": (8, 8), "layer2.1.conv2": (8, 32)}  # fmt: skip
    architecture = dataclasses.replace(NETWORKS[name][0], sizes=thinner)
    module = build(architecture, encoding).eval()
    _harmless(module, "layer1.1")
    selection = BlockSelector(module, _task(name), Prune(amount=0.15, unit="blocks")).select(module, architecture, 1)
    assert selection.architecture.dropped == ("layer1.1",)
    assert set(selection.architecture.sizes) == {layer for layer in thinner if layer.startswith("layer2")}
    assert torch.allclose(_rebuilt(selection, encoding)(rows(name)), module(rows(name)), atol=1e-5)


def test_a_round_takes_nothing_where_the_one_before_was_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        def __init__(self, *_: object) -> None: ...

        def speedup(self, other: nn.Module) -> Speedup:
            return Speedup(1, 2.0, 1.9, 2.1, 15, 0.95)

    monkeypatch.setattr(block_selection, "Stopwatch", Clock)
    module, settings = network("resnet20"), Prune(speedup=1.5, unit="blocks", rounds=2, block_rows=4)
    selector = BlockSelector(module, _task("resnet20"), settings)
    first = selector.select(module, NETWORKS["resnet20"][0], 1)
    second = selector.select(_rebuilt(first, NETWORKS["resnet20"][1]), first.architecture, 2)
    assert len(first.architecture.dropped) == 1
    assert (second.architecture, second.trials) == (first.architecture, ())


def test_blocks_are_judged_by_rows_of_every_class() -> None:
    """A set may lie in the order of its classes."""
    name = "resnet20"
    inputs = np.repeat(rows(name, 100).numpy(), 2, axis=0)
    inputs[:100] = 0
    splits = dict.fromkeys(("train", "val", "calibration", "gate", "report"), Split(inputs, np.zeros(200, np.int64)))
    task = Task("toy", NETWORKS[name][1], splits)
    selector = BlockSelector(network(name), task, Prune(amount=0.5, unit="blocks", block_rows=40))
    assert 5 < sum(bool(row.any()) for row in selector._rows) < 35


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("flattened", Prune(amount=0.5, unit="blocks"), "no block can be left out"),
        ("resnet", Prune(amount=0.1, unit="blocks"), "10% of 3 blocks is less than one"),
    ],
)
def test_what_takes_nothing_out_is_refused(name: str, settings: Prune, message: str) -> None:
    with pytest.raises(PruneError, match=message):
        _select(name, network(name), settings)


class _Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x).abs().sqrt()


class _Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_Root())

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.float().mean(dim=(2, 3)) - 200).sqrt()


def test_a_block_without_which_answers_are_not_finite_stays() -> None:
    found, left = find_blocks(_Whole().eval(), rows("resnet"))
    assert found == ()
    assert left == {"body.0": "the answers are not finite without it"}


def test_divergence_is_of_the_answers_in_nats() -> None:
    whole, other = torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.9, 0.1]]))
    assert divergence(whole, whole) == 0
    assert divergence(whole, other) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
