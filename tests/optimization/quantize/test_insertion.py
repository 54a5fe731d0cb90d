"""Where fake quantizers come to stand, and what stays in float."""

import operator

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from optimization.quantize.error import QuantizationError
from optimization.quantize.fake import FakeQuantize, QuantizedConv2d, QuantizedLinear
from optimization.quantize.insertion import Numerics, with_fake_quantizers

NUMERICS = Numerics(signed=False, per_channel=True, reduce_range=False, symmetric=False, learned=True)

IMAGE, VECTOR = torch.ones(2, 3, 8, 8), torch.ones(2, 4)


class Residual(nn.Module):
    """A convolution with normalization, a shortcut that is cut and padded, a mean and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 8, 3, 2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)), inplace=True)
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y = self.second(x)
        y += shortcut
        logits: Tensor = self.head(functional.relu(y).mean((2, 3)))
        return logits


def _residual() -> Residual:
    torch.manual_seed(0)
    module = Residual()
    for _ in range(5):
        module(torch.randn(8, 3, 8, 8) * 2 + 1)
    module.norm.weight.data.uniform_(0.5, 2)
    module.norm.bias.data.uniform_(-1, 1)
    return module.eval()


def _quantizers(module: nn.Module) -> dict[str, FakeQuantize]:
    return {name: part for name, part in module.named_modules() if isinstance(part, FakeQuantize)}


def _calls(module: fx.GraphModule, name: str) -> int:
    return sum(node.op == "call_module" and node.target == name for node in module.graph.nodes)


def test_with_everything_switched_off_it_answers_as_the_float_module_with_normalization_folded() -> None:
    module, x = _residual(), torch.randn(4, 3, 8, 8)
    made = with_fake_quantizers(module, NUMERICS, IMAGE)
    assert not [part for part in made.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in made.modules():
        if isinstance(part, FakeQuantize | QuantizedConv2d | QuantizedLinear):
            part.enabled = False
    assert torch.allclose(made(x), module(x), atol=1e-5)


def test_layers_additions_and_the_heads_input_are_quantized_and_the_answer_is_not() -> None:
    made = with_fake_quantizers(_residual(), NUMERICS, IMAGE)
    found = _quantizers(made)
    assert set(found) == {"ranges.x", "ranges.relu", "ranges.second", "ranges.relu_1", "ranges.mean"}
    assert isinstance(made.first, QuantizedConv2d) and isinstance(made.head, QuantizedLinear)
    one_sided = {name for name, part in found.items() if "low" not in dict(part.named_parameters())}
    assert one_sided == {"ranges.relu", "ranges.relu_1"}


def test_what_is_only_moved_keeps_the_grid_that_it_lay_on() -> None:
    made = with_fake_quantizers(_residual(), NUMERICS, IMAGE)
    assert _calls(made, "ranges.relu") == 3  # after the ReLU, the slice and the padding
    assert all(_calls(made, name) == 1 for name in _quantizers(made) if name != "ranges.relu")


def test_every_layer_is_told_the_step_of_its_own_input() -> None:
    made = with_fake_quantizers(_residual(), NUMERICS, IMAGE)
    for node in made.graph.nodes:
        if node.op == "call_module" and isinstance(made.get_submodule(str(node.target)), QuantizedConv2d):
            value, step = node.args
            assert value.target is operator.getitem and step.target is operator.getitem
            assert value.args[0] is step.args[0]
            assert (value.args[1], step.args[1]) == (0, 1)


def test_nothing_is_written_in_place() -> None:
    made = with_fake_quantizers(_residual(), NUMERICS, IMAGE)
    assert not [node for node in made.graph.nodes if node.target is operator.iadd or node.kwargs.get("inplace")]
    x = torch.randn(4, 3, 8, 8)
    made(x).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_the_given_module_is_untouched() -> None:
    module, x = _residual(), torch.randn(4, 3, 8, 8)
    before, names = module(x), list(module.state_dict())
    with_fake_quantizers(module, NUMERICS, IMAGE)
    assert torch.equal(module(x), before) and list(module.state_dict()) == names


def test_names_of_weights_and_ranges_are_the_same_each_time() -> None:
    made = [with_fake_quantizers(_residual(), NUMERICS, IMAGE).state_dict() for _ in range(2)]
    assert list(made[0]) == list(made[1])


class Branches(nn.Module):
    """Concatenated branches, pooled, with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.pool, self.act = nn.MaxPool2d(2), nn.ReLU(inplace=True)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.act(torch.cat([self.a(x), self.b(x)], dim=1)))
        y = y * torch.sigmoid(y)
        logits: Tensor = self.last(y).flatten(1)
        return logits


def test_concatenations_and_products_are_quantized_and_pooling_keeps_its_grid() -> None:
    made = with_fake_quantizers(Branches().eval(), NUMERICS, IMAGE)
    assert set(_quantizers(made)) == {
        *("ranges.x", "ranges.a", "ranges.b", "ranges.act", "ranges.sigmoid", "ranges.mul", "ranges.last"),
    }
    assert _calls(made, "ranges.act") == 2
    assert made(torch.randn(2, 3, 4, 4)).shape == (2, 8)


def test_a_layer_that_is_used_twice_has_one_weight_and_two_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layer(functional.relu(self.layer(x)))
            return logits

    made = with_fake_quantizers(Twice().eval(), NUMERICS, VECTOR)
    assert set(_quantizers(made)) == {"ranges.x", "ranges.relu"}
    made(torch.randn(3, 4))


def test_numbers_and_integers_that_are_added_are_left_alone() -> None:
    class Reckoning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows, width = x.shape
            number = torch.ones(rows * width, dtype=torch.int64) + torch.arange(rows * width)
            logits: Tensor = self.layer(x) + number.float().sum()
            return logits

    made = with_fake_quantizers(Reckoning().eval(), NUMERICS, VECTOR)
    assert set(_quantizers(made)) == {"ranges.x", "ranges.layer", "ranges.sum_1"}
    assert made(torch.ones(3, 4)).shape == (3, 4)


def test_a_model_whose_way_depends_on_its_values_is_refused() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(QuantizationError, match=r"cannot be followed by torch\.fx, which quantization-aware"):
        with_fake_quantizers(Fickle(), NUMERICS, VECTOR)


def test_recurrent_models_are_sent_to_dynamic_quantization() -> None:
    with pytest.raises(QuantizationError, match="0 is recurrent, for which there is no static INT8: use DynamicInt8"):
        with_fake_quantizers(nn.Sequential(nn.LSTM(4, 4)), NUMERICS, VECTOR)


def test_a_model_without_layers_to_quantize_is_refused() -> None:
    with pytest.raises(QuantizationError, match="no convolution and no linear layer"):
        with_fake_quantizers(nn.Sequential(nn.ReLU(), nn.Flatten()), NUMERICS, VECTOR)
