import pytest
import torch
from torch import Tensor, nn

from training.parallel.attention import SplitAttention, attentions, pack, packed_name, split_attention, unpack

B, L, W, N = 3, 5, 8, 4


@pytest.fixture
def packed() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(W, N, batch_first=True)
    nn.init.normal_(made.in_proj_bias)
    return made


def _causal() -> Tensor:
    return torch.ones(L, L).triu(1).bool()


@pytest.mark.parametrize("masks", ["none", "padding", "causal", "both", "a row"])
def test_split_attention_does_what_torchs_does(packed: nn.MultiheadAttention, masks: str) -> None:
    x_BLW = torch.randn(B, L, W)
    given: dict[str, Tensor] = {}
    if masks in ("padding", "both"):
        given["key_padding_mask"] = torch.arange(L)[None, :] >= torch.tensor([[5], [3], [2]])
    if masks in ("causal", "both"):
        given["attn_mask"] = _causal()
    if masks == "a row":
        given["attn_mask"] = torch.randn(B, 1, L, L).expand(-1, N, -1, -1).flatten(0, 1)
        one_a_row = {"attn_mask": given["attn_mask"][::N]}
    expected, _ = packed(x_BLW, x_BLW, x_BLW, need_weights=False, **given)
    found, _ = SplitAttention(packed)(x_BLW, x_BLW, x_BLW, **(one_a_row if masks == "a row" else given))
    torch.testing.assert_close(found, expected)


def test_an_attention_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_first, with keys and values as wide as queries"):
        SplitAttention(nn.MultiheadAttention(W, N, kdim=4, batch_first=True))


@pytest.mark.parametrize("trains", [True, False])
def test_a_layer_of_torchs_works_with_its_attention_split(trains: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(W, N, 16, dropout=0.0, batch_first=True).train(trains)
    x_BLW = torch.randn(B, L, W)
    with torch.no_grad():
        expected = layer(x_BLW)
        split_attention(layer)
        torch.testing.assert_close(layer(x_BLW), expected)
    assert attentions(layer) == ["self_attn"]


def test_names_and_numbers_of_a_split_model_go_back_to_those_of_the_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(W, W), nn.TransformerEncoderLayer(W, N, 16, batch_first=True))
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = attentions(model)
    split_attention(model)
    parts = model.state_dict()
    assert {packed_name(name, names) for name in parts} == whole.keys()
    assert unpack(whole, names).keys() == parts.keys()
    for found, expected in ((pack(parts, names), whole), (unpack(whole, names), parts)):
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor)


def test_a_step_counter_is_that_of_all_three_parts() -> None:
    steps = {"a.in_proj_weight": torch.tensor(3.0), "b.weight": torch.tensor(3.0)}
    parts = unpack(steps, ["a"])
    assert parts.keys() == {"a.query.weight", "a.key.weight", "a.value.weight", "b.weight"}
    assert pack(parts, ["a"]) == steps
