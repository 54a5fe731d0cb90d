import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.encoding import Encoding, ImageEncoding, TextEncoding
from training.models.architecture import Architecture, build
from training.models.blocks import blocks
from training.models.recompute import recompute_activations

IMAGE = ImageEncoding(height=16, width=16, channels=3, labels=("a", "b", "c"))
TEXT = TextEncoding(max_tokens=12, labels=("a", "b", "c"))
MODELS: dict[str, tuple[Architecture, Encoding, int]] = {
    "convnet": (Architecture("convnet", {"widths": [8, 8], "blocks": 2, "dropout": 0.3}), IMAGE, 4),
    "resnet": (Architecture("resnet", {"widths": [8, 16]}), IMAGE, 3),
    "resnet20": (Architecture("resnet20"), IMAGE, 9),
    "transformer": (Architecture("transformer", {"vocabulary": 30, "width": 16, "dropout": 0.3}), TEXT, 2),
    "torchvision": (Architecture("torchvision/resnet18"), IMAGE, 8),
    "stochastic depth": (Architecture("torchvision/efficientnet_b0", {"stochastic_depth_prob": 0.5}), IMAGE, 18),
    "timm": (Architecture("timm/resnet10t"), IMAGE, 4),
}


def _batch(encoding: Encoding) -> Tensor:
    torch.manual_seed(5)
    if isinstance(encoding, TextEncoding):
        return torch.randint(1, 30, (4, 12))
    return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)


def _step(module: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Every gradient and every buffer after one step, from the same seed."""
    torch.manual_seed(7)
    module.train()
    module(batch).square().sum().backward()
    gradients = {f"grad {name}": p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    return gradients | {name: buffer.clone() for name, buffer in module.named_buffers()}


def _averaged(module: nn.Module) -> nn.Module:
    return AveragedModel(module).module


@pytest.mark.parametrize("then", [lambda module: module, copy.deepcopy, _averaged], ids=["itself", "copy", "average"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_are_the_same_to_the_bit(name: str, then: Callable[[nn.Module], nn.Module]) -> None:
    architecture, encoding, count = MODELS[name]
    module = build(architecture, encoding)
    recomputing = then(recompute_activations(copy.deepcopy(module)))
    assert len(blocks(module)) == count
    assert list(recomputing.state_dict()) == list(module.state_dict())
    expected, found = _step(module, _batch(encoding)), _step(recomputing, _batch(encoding))
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key


def test_a_copy_runs_its_own_weights() -> None:
    module = recompute_activations(build(MODELS["resnet20"][0], IMAGE))
    other = copy.deepcopy(module)
    for weights in module.parameters():
        nn.init.zeros_(weights)
    assert _step(other, _batch(IMAGE))["grad linear.weight"].any()


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        out: Tensor = self.inner(x).relu()
        return out


def test_a_block_runs_again_in_the_backward_pass_and_only_there() -> None:
    module = recompute_activations(nn.Sequential(_Counting(), _Counting()))
    loss = module(torch.ones(2, 4)).sum()
    assert [block.runs for block in blocks(module)] == [1, 1]
    loss.backward()
    assert [block.runs for block in blocks(module)] == [2, 2]
    with torch.no_grad():
        module(torch.ones(2, 4))
    assert [block.runs for block in blocks(module)] == [3, 3]


def _kept_bytes(module: nn.Module, batch: Tensor) -> int:
    """What the forward pass keeps for the backward pass, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = module.train()(batch)
    assert logits.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["resnet20", "transformer"])
def test_less_is_kept_for_the_backward_pass(name: str) -> None:
    architecture, encoding, _ = MODELS[name]
    module = build(architecture, encoding)
    plain = _kept_bytes(module, _batch(encoding))
    assert _kept_bytes(recompute_activations(module), _batch(encoding)) < 0.5 * plain


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no blocks whose activations could be recomputed"):
        recompute_activations(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("name", ["resnet20", "transformer"])
def test_a_compiled_model_recomputes_too(name: str) -> None:
    architecture, encoding, _ = MODELS[name]
    if encoding is TEXT:  # whose dropout a compiled graph would draw otherwise
        architecture = Architecture("transformer", {**architecture.params, "dropout": 0.0})
    module = build(architecture, encoding)
    recomputing = recompute_activations(copy.deepcopy(module))
    expected = _step(module, _batch(encoding))
    torch.manual_seed(7)
    compiled = torch.compile(recomputing.train(), backend="aot_eager")
    compiled(_batch(encoding)).square().sum().backward()
    for key, parameter in recomputing.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[f"grad {key}"], msg=key)
    for key, buffer in recomputing.named_buffers():
        torch.testing.assert_close(buffer, expected[key], msg=key)
