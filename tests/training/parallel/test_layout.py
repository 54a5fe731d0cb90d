import copy

import pytest
import torch
from torch import Tensor, nn

from tests.toys import IMAGES, TEXTS, dense
from tests.training.parallel.encoder import encoder
from training.parallel.attention import SplitAttention
from training.parallel.layout import Split, cut, owns, pieces, splits
from training.parallel.pipeline import outline, prune
from training.parallel.spread import check_split


def tokens() -> Tensor:
    torch.manual_seed(0)
    tokens_BL = torch.randint(1, 40, (6, TEXTS.max_tokens))
    tokens_BL[0, 5:] = TEXTS.pad_id
    return tokens_BL


def pixels() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (6, IMAGES.channels, IMAGES.height, IMAGES.width), dtype=torch.uint8)


def by_stages(module: nn.Module, inputs: Tensor, stages: int) -> Tensor:
    """Through copies of `module` that each hold one run of pieces alone."""
    x = inputs
    for stage in range(stages):
        own = copy.deepcopy(module)
        run = cut(own, stages)[stage]
        prune(own, run)
        for piece in run:
            x = piece.run(x, inputs)
    return x


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_model_in_stages_answers_as_the_whole(stages: int) -> None:
    module = encoder(TEXTS, layers=3).eval()
    tokens_BL = tokens()
    torch.testing.assert_close(by_stages(module, tokens_BL, stages), module(tokens_BL))


def test_a_chain_is_cut_between_its_layers() -> None:
    module = dense(IMAGES)
    assert isinstance(module, nn.Module)
    torch.testing.assert_close(by_stages(module, pixels(), 2), module(pixels()))
    inner = nn.Sequential(module, nn.Sequential(nn.ReLU(), nn.Linear(3, 3)))
    assert [piece.names for piece in pieces(inner)] == [
        *((f"0.{number}",) for number in range(5)), ("1.0",), ("1.1",)
    ]  # fmt: skip


def test_every_weight_belongs_to_one_stage_of_about_equal_cost() -> None:
    module = encoder(TEXTS, layers=4)
    runs = cut(module, 2)
    names = [name for name, _ in module.named_parameters()]
    assert [sum(owns(run, name) for run in runs) for name in names] == [1] * len(names)
    # Two layers each; the embedding, large as it is, costs nothing.
    assert [[name for piece in run for name in piece.names if "layers" in name] for run in runs] == [
        ["layers.0", "layers.1"], ["layers.2", "layers.3"]
    ]  # fmt: skip


def test_more_stages_than_there_are_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 pieces with weights, which do not fill 3 stages: use fewer"):
        cut(dense(IMAGES), 3)  # type: ignore[arg-type]


def test_a_model_that_nobody_described_is_not_cut() -> None:
    with pytest.raises(ValueError, match=r"LSTM cannot be cut into a pipeline: .* has no pieces\(\)"):
        cut(nn.LSTM(3, 3), 2)


def test_an_outline_has_shapes_and_no_memory() -> None:
    module = encoder(TEXTS)
    made = outline(module)
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert made(tokens().to("meta")).shape == (6, 2)


def test_layers_of_torchs_and_of_ones_own_are_split_where_they_stand() -> None:
    class Own(nn.Module):
        split = Split(("up",), ("down",))

    module = nn.Sequential(Own(), encoder(TEXTS, layers=2))
    assert [split for _, split in splits(module)] == [Own.split, *[Split(("linear1",), ("linear2",))] * 2]


@pytest.mark.parametrize(
    ("width", "peers", "message"),
    [
        (12, 3, r"SplitAttention\.query has 4 heads, which 3"),
        (8, 16, r"has 4 heads, which 16 tensor peers cannot share"),
    ],
)
def test_heads_are_not_cut_in_two(width: int, peers: int, message: str) -> None:
    attention = SplitAttention(nn.MultiheadAttention(width, 4, batch_first=True))
    ((layer, split),) = splits(attention)
    check_split(layer, split, 2)
    with pytest.raises(ValueError, match=message):
        check_split(layer, split, peers)
