import pytest
import torch
from torch import nn

from training.encoding import TextEncoding
from training.models.transformer import Attention, EncoderLayer, SinusoidalPositions, transformer

TEXT = TextEncoding(max_tokens=6, labels=("a", "b"))


def test_a_layer_answers_as_torchs_own_with_the_same_weights() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(width=8, heads=2, feedforward=20, dropout=0.0)
    reference = nn.TransformerEncoderLayer(
        8, 2, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).train()  # its short cut for inference computes the same in another order
    projections = (layer.attention.query, layer.attention.key, layer.attention.value)
    reference.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([part.weight for part in projections]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in projections]),
            "self_attn.out_proj.weight": layer.attention.out.weight,
            "self_attn.out_proj.bias": layer.attention.out.bias,
            "linear1.weight": layer.feedforward[0].weight,
            "linear1.bias": layer.feedforward[0].bias,
            "linear2.weight": layer.feedforward[3].weight,
            "linear2.bias": layer.feedforward[3].bias,
            **{f"norm1.{name}": value for name, value in layer.attention_norm.named_parameters()},
            **{f"norm2.{name}": value for name, value in layer.feedforward_norm.named_parameters()},
        }
    )
    x_BLW = torch.randn(3, 5, 8)
    mask_BL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
    got, expected = layer(x_BLW, mask_BL[:, None, None]), reference(x_BLW, src_key_padding_mask=~mask_BL)
    torch.testing.assert_close(got[mask_BL], expected[mask_BL])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_order_matters(positions: str) -> None:
    torch.manual_seed(0)
    model = transformer(TEXT, vocabulary=20, width=16, positions=positions).eval()
    row = torch.tensor([[3, 4, 5, 6, 7]])
    assert (model(row) - model(row.flip(1))).abs().max() > 1e-5
    for name, weight in model.named_parameters():
        if name.startswith("positions"):
            nn.init.zeros_(weight)
    if positions == "learned":
        torch.testing.assert_close(model(row), model(row.flip(1)))


def test_sinusoidal_positions_are_told_apart_however_far_they_lie() -> None:
    waves_LW = SinusoidalPositions(32)(torch.zeros(1, 2000, 32))[0]
    assert torch.pdist(waves_LW).min() > 0.02 * 0.5
    assert waves_LW.abs().max() <= 0.02


def test_dropout_is_drawn_in_training_alone() -> None:
    attention = Attention(8, 2, dropout=0.5)
    x_BLW, seen = torch.randn(2, 3, 8), torch.ones(2, 1, 1, 3, dtype=torch.bool)
    assert not torch.equal(attention.train()(x_BLW, seen), attention(x_BLW, seen))
    assert torch.equal(attention.eval()(x_BLW, seen), attention(x_BLW, seen))


def test_layers_and_widths_set_the_number_of_parameters() -> None:
    def count(**options: int) -> int:
        return sum(p.numel() for p in transformer(TEXT, vocabulary=20, width=16, **options).parameters())

    layer = 4 * (16 * 16 + 16) + 2 * 16 * 64 + 64 + 16 + 4 * 16
    assert count(layers=3) - count(layers=2) == layer
    assert count(layers=1, feedforward=10) == count(layers=1) - (64 - 10) * (2 * 16 + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 20, "heads": 4}, "width is 20 with 4 heads: it must be a multiple of 8"),
        ({"positions": "rotary"}, "positions is 'rotary'"),
        ({"pooling": "max_mean"}, "pooling is 'max_mean'"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(TEXT, vocabulary=20, **options)  # type: ignore[arg-type]
