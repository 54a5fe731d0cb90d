import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from optimization.prune.sparse import KeepZeros, ZerosOf, file_size, sparse_parameters, sparsity, zero_smallest
from tests.optimization.prune.networks import network
from tests.toys import image_recipe, images
from training.loop.fit import fit
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.architecture import build
from training.task import Source


def test_the_smallest_weights_of_all_layers_go_first() -> None:
    module, old = network("convnet"), network("convnet")
    zero_smallest(module, 0.7, "global")
    assert sparsity(module) == pytest.approx(0.7, abs=1e-4)
    pairs = [(sparse_parameters(module)[name], one) for name, one in sparse_parameters(old).items()]
    largest_gone = max(float(one[new == 0].abs().max()) for new, one in pairs if (new == 0).any())
    assert largest_gone <= min(float(new[new != 0].abs().min()) for new, _ in pairs)
    assert all(torch.equal(new[new != 0], one[new != 0]) for new, one in pairs)
    shares = [float((new == 0).float().mean()) for new, _ in pairs]
    assert max(shares) - min(shares) > 0.1  # layers differ in how large their weights are


def test_each_layer_loses_the_same_share_where_it_is_asked_so() -> None:
    module = network("convnet")
    zero_smallest(module, 0.7, "uniform")
    for tensor in sparse_parameters(module).values():
        assert float((tensor == 0).float().mean()) == pytest.approx(0.7, abs=0.5 / tensor.numel() + 1e-6)


def test_norms_and_biases_keep_all() -> None:
    module, old = network("resnet"), network("resnet")
    zero_smallest(module, 0.9, "global")
    for name, parameter in module.named_parameters():
        assert parameter.ndim > 1 or torch.equal(parameter, old.get_parameter(name))


def test_weights_of_equal_size_do_not_go_all_at_once() -> None:
    module = nn.Linear(10, 10)
    nn.init.ones_(module.weight)
    zero_smallest(module, 0.25, "global")
    assert int((module.weight == 0).sum()) == 25


def test_what_is_zero_already_counts() -> None:
    module = network("convnet")
    zero_smallest(module, 0.5, "global")
    zeros = {name: tensor == 0 for name, tensor in sparse_parameters(module).items()}
    zero_smallest(module, 0.8, "global")
    assert sparsity(module) == pytest.approx(0.8, abs=1e-4)
    assert all(bool((tensor[zeros[name]] == 0).all()) for name, tensor in sparse_parameters(module).items())


class _Zeros(Watcher):
    """What each step leaves: the number of zeros in the weights, and in their average."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def step(self, training: Training, batch: object) -> None:
        self.seen.append((sparsity(training.module), sparsity(training.kept)))


@pytest.mark.parametrize(("optimizer", "ema"), [("adamw", 0.0), ("sgd", 0.9)])
def test_zeros_stay_zero_while_the_rest_learns(tmp_path: Path, optimizer: str, ema: float) -> None:
    task, recipe = images(Source()), image_recipe()
    recipe = dataclasses.replace(
        recipe, epochs=2, ema_decay=ema, optimizer=dataclasses.replace(recipe.optimizer, name=optimizer)
    )
    torch.manual_seed(0)
    module = build(recipe.architecture, task.encoding)
    zero_smallest(module, 0.6, "global")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_file(before, tmp_path / "w.safetensors")
    watchers = pickle.loads(pickle.dumps(ZerosOf(tmp_path / "w.safetensors")))(Worker())
    zeros = _Zeros()
    training = fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"], watchers=[*watchers, zeros]
    )  # fmt: skip
    share = sparsity_of(before)
    assert zeros.seen and all(seen == pytest.approx((share, share), abs=1e-9) for seen in zeros.seen)
    best = training.best.weights
    for name, tensor in before.items():
        if name in sparse_parameters(module):
            assert bool((best[name][tensor == 0] == 0).all())
            assert bool((best[name][tensor != 0] != tensor[tensor != 0]).any())


def sparsity_of(weights: dict[str, torch.Tensor]) -> float:
    matrices = [tensor for tensor in weights.values() if tensor.ndim > 1]
    return sum(int((tensor == 0).sum()) for tensor in matrices) / sum(tensor.numel() for tensor in matrices)


def test_a_state_from_before_the_zeros_were_set_is_corrected_when_training_goes_on() -> None:
    """Checkpoints are written by a watcher that stands before this one."""
    task, recipe = images(Source()), image_recipe()
    module = build(recipe.architecture, task.encoding)
    masks = {name: torch.rand_like(tensor) > 0.5 for name, tensor in sparse_parameters(module).items()}
    training = Training(recipe, module, 6, Worker())
    KeepZeros(masks).begin(training, None)  # type: ignore[arg-type]
    for name, tensor in sparse_parameters(module).items():
        assert bool((tensor[~masks[name]] == 0).all()) and bool((tensor[masks[name]] != 0).any())


def test_weights_that_lie_in_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task, recipe = images(Source()), image_recipe()
    training = Training(recipe, build(recipe.architecture, task.encoding), 6, Worker())
    monkeypatch.setattr(type(training.strategy), "is_sharded", True)
    with pytest.raises(ValueError, match="train without sharding"):
        KeepZeros({}).begin(training, None)  # type: ignore[arg-type]


def test_zeros_make_a_compressed_file_smaller_and_a_plain_one_not() -> None:
    random = np.random.default_rng(0)
    weights = {"w": torch.from_numpy(random.normal(size=(200, 100)).astype(np.float32))}
    dense = file_size(weights)
    weights["w"][torch.from_numpy(random.random((200, 100)) < 0.9)] = 0
    sparse = file_size(weights)
    assert sparse.plain == dense.plain >= 80_000
    assert dense.deflate > 0.85 * dense.plain and dense.zstd > 0.85 * dense.plain  # floats are noise to them
    # A tenth of the floats, and which they are: log2 of (10 over 1) bits for each of the weights is 0.47.
    assert 0.1 * dense.plain < sparse.zstd < 0.2 * dense.plain
    assert 0.1 * dense.plain < sparse.deflate < 0.25 * dense.plain
