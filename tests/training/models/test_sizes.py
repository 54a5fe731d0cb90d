import pytest
import torch
from torch import nn

from training.models.sizes import Size, is_depthwise, resize, size_of, sizes_of


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    return network.eval()


def test_every_layer_with_widths_says_them() -> None:
    assert sizes_of(_network()) == {"0": (3, 8), "1": (8, 8), "2": (8, 8), "4": (8, 12), "7": (12, 5)}
    assert size_of(nn.ReLU()) is None
    assert size_of(nn.LayerNorm(4)) is None


def test_a_resized_network_computes_with_its_new_widths() -> None:
    network = _network()
    wanted: dict[str, Size] = {"0": (3, 4), "1": (4, 4), "2": (4, 4), "4": (4, 8), "7": (8, 2)}
    resize(network, wanted)
    assert sizes_of(network) == wanted
    assert network(torch.rand(2, 3, 6, 6)).shape == (2, 2)
    assert is_depthwise(network[2])
    assert network[4].groups == 4
    assert network[1].running_mean.tolist() == [0] * 4 and network[1].running_var.tolist() == [1] * 4
    assert network[0].bias.shape == (4,) and network[2].bias is None
    assert all(parameter.requires_grad and parameter.isfinite().all() for parameter in network.parameters())


def test_what_keeps_its_size_keeps_its_weights() -> None:
    network, same = _network(), _network()
    resize(network, {"0": (3, 8), "7": (12, 4)})
    assert torch.equal(network[0].weight, same[0].weight)
    assert network[7].weight.shape == (4, 12)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("9", (3, 4), r"size \(3, 4\) of layer '9': there is no such layer"),
        ("3", (8, 4), "of layer '3': a ReLU has no size to change"),
        ("1", (8, 4), "layer '1' normalizes: it makes as many channels as it reads, not 4"),
        ("4", (6, 12), "layer '4' is a convolution of 4 groups: 6 channels in and 12 out do not divide by them"),
        ("2", (6, 8), "layer '2' is a convolution of 6 groups"),
    ],
)
def test_a_size_that_a_layer_cannot_have_is_refused(name: str, size: Size, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize(_network(), {name: size})
