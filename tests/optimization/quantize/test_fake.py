"""Fake quantizers against ONNX's own QuantizeLinear and DequantizeLinear, and the gradients that they let through."""

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from optimization.quantize.fake import FakeQuantize, QuantizedConv2d, QuantizedLinear
from tests.optimization.quantize.graphs import VECTORS, model, run, vectors


def _quantizer(low: float, high: float, signed: bool = False, symmetric: bool = False) -> FakeQuantize:
    made = FakeQuantize(signed, one_sided=False, learned=True, symmetric=symmetric)
    made.set_range(low, high)
    return made


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 3.7), (-0.3, 0.0), (-5.0, 5.0)])
def test_values_are_those_of_onnx(low: float, high: float, signed: bool) -> None:
    step = np.float32((high - low) / 255)
    kind = np.int8 if signed else np.uint8
    zero = kind(np.round((-128 if signed else 0) - np.float32(low) / step))
    nodes = [
        helper.make_node("QuantizeLinear", ["vector", "step", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "step", "zero"], ["logits"]),
    ]
    content = model(nodes, {"step": step, "zero": zero}, VECTORS, 16)
    x = 3 * vectors(500)
    got, got_step = _quantizer(low, high, signed)(torch.from_numpy(x))
    np.testing.assert_allclose(got.detach().numpy(), run(content, x), atol=2e-6)
    assert float(got_step.detach()) == pytest.approx(float(step), rel=1e-6)


def test_rounding_is_half_to_even() -> None:
    got, _ = _quantizer(0.0, 255.0)(torch.tensor([0.5, 1.5, 2.5, 3.5]))
    assert got.tolist() == [0.0, 2.0, 2.0, 4.0]


def test_zero_stays_zero() -> None:
    for low, high in ((-1.0, 2.0), (-0.013, 3.1), (-7.7, 0.2)):
        assert float(_quantizer(low, high)(torch.zeros(1))[0].detach()) == 0.0


def test_a_symmetric_range_has_its_zero_at_level_zero() -> None:
    got, step = _quantizer(-1.0, 2.54, signed=True, symmetric=True)(torch.tensor([-2.54, 0.0, 2.54]))
    assert float(step.detach()) == pytest.approx(0.02)
    assert got.tolist() == pytest.approx([-2.54, 0.0, 2.54])


def test_what_lies_on_the_grid_stays_there() -> None:
    quantizer = _quantizer(-1.3, 2.9)
    once, _ = quantizer(torch.from_numpy(vectors()))
    twice, _ = quantizer(once)
    assert torch.equal(once, twice)


def test_gradients_pass_inside_of_the_range_and_move_its_ends() -> None:
    quantizer = _quantizer(-1.0, 1.0)
    x = torch.tensor([-3.0, -0.4, 0.4, 3.0], requires_grad=True)
    quantizer(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.0, 1.0, 1.0, 0.0], abs=1e-5)
    assert quantizer.high.grad is not None and quantizer.low.grad is not None
    # A larger high lets the clipped 3 rise, a larger low lets the clipped -3 rise.
    assert float(quantizer.high.grad) > 0 and float(quantizer.low.grad) > 0


def test_a_range_too_narrow_grows_to_what_the_loss_wants() -> None:
    quantizer = _quantizer(-0.5, 0.5)
    x = torch.from_numpy(vectors(200))
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=3e-3)

    def error() -> Tensor:
        return ((quantizer(x)[0] - x) ** 2).mean()

    before = float(error().detach())
    for _ in range(60):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert float(error().detach()) < 0.02 * before


def test_what_a_relu_gives_has_no_low_to_learn() -> None:
    made = FakeQuantize(signed=False, one_sided=True, learned=True, symmetric=False)
    assert [name for name, _ in made.named_parameters()] == ["high"]
    fixed = FakeQuantize(signed=False, one_sided=False, learned=False, symmetric=False)
    assert not list(fixed.parameters()) and set(fixed.state_dict()) == {"low", "high"}


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_weights_lie_on_the_grid_of_their_channel(reduce_range: bool, largest: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3)
    layer.weight.data[2] *= 30
    weight, bias = QuantizedConv2d(layer, True, reduce_range).quantized(torch.tensor(0.02))
    step_O = layer.weight.detach().abs().amax((1, 2, 3)) / largest
    levels = weight.detach() / step_O[:, None, None, None]
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert torch.allclose(levels.abs().amax((1, 2, 3)), torch.full((5,), float(largest)))
    assert bias is not None and layer.bias is not None
    on_grid = bias.detach() / (step_O * 0.02)
    assert torch.allclose(on_grid, on_grid.round(), atol=2e-2)
    assert torch.allclose(bias, layer.bias, atol=float(step_O.max()) * 0.02)


def test_one_scale_a_weight_is_coarser_where_channels_differ() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data[0] *= 100
    errors = []
    for per_channel in (True, False):
        weight, bias = QuantizedLinear(layer, per_channel, False).quantized(torch.tensor(1.0))
        assert bias is None
        errors.append(float((weight - layer.weight)[1:].abs().mean().detach()))
    assert errors[1] > 20 * errors[0]


def test_a_weights_gradient_is_that_of_the_float_layer_at_the_quantized_point() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    quantized = QuantizedLinear(layer, True, False)
    x = torch.randn(5, 8)
    quantized(x, torch.tensor(0.01)).sum().backward()
    layer(x).sum().backward()
    assert quantized.weight.grad is not None and layer.weight.grad is not None
    assert torch.allclose(quantized.weight.grad, layer.weight.grad)


def test_a_strided_padded_grouped_convolution_stays_what_it_was() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1, dilation=1, groups=4)
    quantized = QuantizedConv2d(layer, True, False)
    x = torch.randn(2, 4, 9, 9)
    want, got = layer(x), quantized(x, torch.tensor(1e-3))
    assert got.shape == want.shape
    assert float((got - want).abs().max().detach()) < 0.03 * float(want.abs().max().detach())
