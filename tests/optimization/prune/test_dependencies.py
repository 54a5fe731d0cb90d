import numpy as np
import pytest
import torch
from torch import nn

from optimization.prune.dependencies import find_channels
from optimization.prune.group import PruneError
from tests.optimization.prune.networks import IMAGE, grouped, network, rows
from training.models.architecture import Architecture, build


def test_the_inner_channels_of_every_block_are_found_and_the_padded_stream_is_left() -> None:
    """Channels that the shortcuts fill up with zeros cannot be told by one number a layer: they have to stay."""
    channels = find_channels(network("resnet20"), rows("resnet20"))
    blocks = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    widths = [16] * 3 + [32] * 3 + [64] * 3
    assert channels.widths == dict(zip(blocks, widths, strict=True))
    inner = channels.groups[3]
    assert {(axis.layer, axis.side) for axis in inner.axes} == {
        ("layer2.0.conv1", "out"), ("layer2.0.bn1", "out"), ("layer2.0.conv2", "in"),
    }  # fmt: skip
    assert all(axis.unit_N.tolist() == list(range(32)) for axis in inner.axes)
    assert channels.left == {
        "conv1": "the answers change without them even where they are zero",
        "linear": "they are the answer itself",
    }


@pytest.mark.parametrize(
    ("name", "count", "left"),
    [
        ("convnet", 4, {"8"}),
        ("resnet", 6, {"9"}),  # three inner, the stem and both streams
        ("resnet18", 12, {"network.fc"}),
        ("mobilenet_v2", 25, {"network.classifier.1"}),
        ("bag", 1, {"body.3"}),
    ],
)
def test_all_channels_but_the_answers_can_go(name: str, count: int, left: set[str]) -> None:
    channels = find_channels(network(name), rows(name))
    assert set(channels.left) == left
    assert len(channels.groups) == count


def test_a_stream_is_one_group_of_all_layers_that_add_to_it() -> None:
    groups = {group.name: group for group in find_channels(network("resnet18"), rows("resnet18")).groups}
    stream = next(
        group for group in groups.values() if any(axis.layer == "network.layer2.0.conv2" for axis in group.axes)
    )
    makers = {axis.layer for axis in stream.axes if axis.side == "out" and "conv" in axis.layer}
    assert makers == {"network.layer2.0.conv2", "network.layer2.1.conv2"}
    assert ("network.layer2.0.downsample.0", "out") in {(axis.layer, axis.side) for axis in stream.axes}
    assert ("network.layer3.0.conv1", "in") in {(axis.layer, axis.side) for axis in stream.axes}


def test_a_channel_that_is_many_features_is_found_in_all_of_them() -> None:
    channels = find_channels(network("flattened"), rows("flattened"))
    assert channels.widths == {"1": 8, "6": 12}
    # A sigmoid answers 0.5 to nothing: without its channel the next layer would read less than with it at zero.
    assert channels.left["4"] == "the answers change without them even where they are zero"
    read = next(axis for group in channels.groups for axis in group.axes if axis.layer == "4")
    assert read.unit_N.tolist() == [unit for unit in range(8) for _ in range(16)]


def test_what_is_read_from_several_layers_is_told_apart() -> None:
    channels = find_channels(network("joined"), rows("joined"))
    found = {group.name: {(a.layer, a.side): a.unit_N for a in group.axes} for group in channels.groups}
    assert channels.widths == {"left": 8, "right": 12, "both.2": 16}
    assert found["left"]["both.0", "out"].tolist() == [*range(8), *[-1] * 12]
    assert found["right"]["both.0", "out"].tolist() == [*[-1] * 8, *range(12)]
    assert found["right"]["head", "in"].tolist() == [*[-1] * 16, *range(12)]


def test_a_transformer_loses_no_channels_that_its_norms_or_heads_need() -> None:
    channels = find_channels(network("transformer"), rows("transformer"))
    assert set(channels.widths) == {"layers.0.feedforward.0", "layers.1.feedforward.0"}
    assert "a LayerNorm cannot be cut" in channels.left["layers.1.feedforward.3"]
    assert {"layers.0.attention.value", "layers.1.attention.value"} <= set(channels.left)


def test_a_convolution_of_groups_is_left_whole() -> None:
    with pytest.raises(PruneError, match="no channel of this model can be taken out alone") as caught:
        find_channels(grouped(IMAGE), rows("convnet"))
    assert "3 depends on them, a convolution of 4 groups" in str(caught.value)


def test_a_model_whose_channels_are_all_its_answer_is_refused() -> None:
    with pytest.raises(PruneError, match=r"\(2: they are the answer itself\)"):
        find_channels(nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(4, 2)), torch.rand(2, 4))


def test_a_model_whose_graph_cannot_be_drawn_is_refused() -> None:
    """Its channels are shuffled by a reshape that the graph's library does not follow."""
    module = build(Architecture("torchvision/shufflenet_v2_x0_5"), IMAGE)
    with pytest.raises(PruneError, match="the dependencies between this model's layers cannot be drawn"):
        find_channels(module, rows("convnet"))


def test_looking_for_channels_changes_nothing() -> None:
    module = network("resnet").train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    find_channels(module, rows("resnet"))
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_same_groups_are_found_whatever_the_weights() -> None:
    """Weights at zero would make any mistake look right."""
    module = network("resnet20")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    found, wanted = find_channels(module, rows("resnet20")), find_channels(network("resnet20"), rows("resnet20"))
    assert found.left == wanted.left
    for group, same in zip(found.groups, wanted.groups, strict=True):
        assert group.name == same.name
        assert all(np.array_equal(a.unit_N, b.unit_N) for a, b in zip(group.axes, same.axes, strict=True))
