import pytest
import torch
from torch import nn

from training.encoding import ImageEncoding
from training.models.vision import Normalize, Scale, convnet, resnet

COLOUR = ImageEncoding(height=12, width=20, channels=3, labels=("a", "b", "c", "d"))


def test_pixels_are_scaled_around_zero() -> None:
    scaled = Scale()(torch.tensor([0, 64, 255], dtype=torch.uint8))
    assert scaled.dtype == torch.float32
    assert scaled.tolist() == pytest.approx([-1.9921875, -0.9921875, 1.9921875])


def test_pixels_are_normalized_by_channel() -> None:
    images_BCHW = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normalized = Normalize(3, mean=[0.5, 0.2, 0.0], std=[0.5, 1.0, 0.25])(images_BCHW)
    assert normalized.flatten().tolist() == pytest.approx([-1.0, 0.0, 4.0])
    assert Normalize(3, mean=[0.2], std=[0.1])(images_BCHW).flatten().tolist() == pytest.approx([-2.0, 0.0, 8.0])


def test_the_numbers_that_pixels_are_normalized_by_are_no_weights() -> None:
    assert Normalize(1, [0.5], [0.2]).state_dict() == {}


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [([0.5, 0.5], [0.2], "mean is .* one for each of 3 channels"), ([0.5], [0.0], "each must be above 0")],
)
def test_numbers_that_cannot_normalize_are_refused(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Normalize(3, mean, std)


@pytest.mark.parametrize("make", [convnet, resnet])
@pytest.mark.parametrize("widths", [[8], [8, 16], [8, 8, 16, 24]])
def test_a_network_answers_logits_for_any_size_and_depth(make, widths: list[int]) -> None:
    module = make(COLOUR, widths=widths, blocks=2).eval()
    logits = module(torch.randint(0, 256, (5, 3, 12, 20), dtype=torch.uint8))
    assert logits.shape == (5, 4)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("make", "convolutions"), [(convnet, 4), (resnet, 1 + 2 * 4 + 1)])
def test_blocks_and_widths_set_the_depth(make, convolutions: int) -> None:
    module = make(COLOUR, widths=[8, 16], blocks=2)
    assert sum(isinstance(part, nn.Conv2d) for part in module.modules()) == convolutions


@pytest.mark.parametrize("make", [convnet, resnet])
def test_each_stage_after_the_first_halves_the_image(make) -> None:
    module = make(COLOUR, widths=[8, 16, 24])
    body = nn.Sequential(*list(module)[:-4]).eval()
    assert body(torch.zeros(1, 3, 12, 20, dtype=torch.uint8)).shape == (1, 24, 3, 5)


def test_a_residual_block_passes_its_input_on() -> None:
    module = resnet(COLOUR, widths=[8], blocks=1).eval()
    block = module[2]
    for parameter in block.second.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(2, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_dropout_stands_before_the_head_and_rests_in_eval() -> None:
    module = convnet(COLOUR, widths=[8], dropout=0.5)
    batch = torch.randint(0, 256, (4, 3, 12, 20), dtype=torch.uint8)
    assert module[-2].p == 0.5
    module.eval()
    assert torch.equal(module(batch), module(batch))
