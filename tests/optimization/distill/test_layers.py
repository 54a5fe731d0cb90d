import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from optimization.distill.layers import Projection, hint_loss, output_sizes, tap_layers
from tests.toys import IMAGES, TEXTS
from training.models.architecture import Architecture, build


def test_sizes_are_told_of_images_texts_and_vectors() -> None:
    convnet = build(Architecture("convnet", {"widths": [8, 16]}), IMAGES).train()
    names = ["1", "2", "4"]
    sizes = output_sizes(convnet, tap_layers(convnet, names, "teacher"), names, IMAGES)
    assert [list(size) for size in sizes] == [[1, 8, 4, 4], [1, 16, 2, 2], [1, 16]]
    assert convnet.training  # as it was
    lstm = build(Architecture("lstm", {"vocabulary": 40, "embedding": 6, "hidden": 5}), TEXTS)
    sizes = output_sizes(lstm, tap_layers(lstm, ["forward_lstm"], "teacher"), ["forward_lstm"], TEXTS)
    assert [list(size) for size in sizes] == [[1, 8, 5]]


def test_a_layer_that_does_not_exist_is_told_with_those_that_do() -> None:
    convnet = build(Architecture("convnet", {"widths": [8]}), IMAGES)
    with pytest.raises(ValueError, match=r"the student has no layer 'layer9'; it has 0, 1, 1\.0, 1\.1"):
        tap_layers(convnet, ["layer9"], "student")
    with pytest.raises(ValueError, match="has no layer ''"):
        tap_layers(convnet, [""], "student")


class _Odd(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"images": images}


class _Net(nn.Module):
    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, images: Tensor) -> Tensor:
        self.odd(images)
        return images.flatten(1)[:, :3].float()


@pytest.mark.parametrize(
    ("odd", "answer"), [(_Odd(), "dict"), (nn.Unflatten(1, (1, 1)), r"a tensor \[1, 1, 1, 4, 4\]")]
)
def test_a_layer_of_which_there_is_no_hint_is_refused(odd: nn.Module, answer: str) -> None:
    net = _Net(odd)
    with pytest.raises(ValueError, match=f"layer 'odd' answers with {answer}"):
        output_sizes(net, tap_layers(net, ["odd"], "teacher"), ["odd"], IMAGES)


def test_a_projection_of_images_is_a_1x1_convolution() -> None:
    torch.manual_seed(0)
    projection = Projection(3, 5, axis=1)
    x = torch.randn(2, 3, 4, 6)
    expected = functional.conv2d(x, projection.weight[:, :, None, None], projection.bias)
    torch.testing.assert_close(projection(x), expected)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3), 1), ((2, 7, 3), 2)])
def test_a_projection_of_vectors_and_texts_is_a_linear_layer(shape: tuple[int, ...], axis: int) -> None:
    projection = Projection(3, 5, axis)
    x = torch.randn(shape)
    torch.testing.assert_close(projection(x), functional.linear(x, projection.weight, projection.bias))


def test_the_loss_is_the_share_of_the_teachers_square_that_is_missed() -> None:
    teacher = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    foretold = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    assert float(hint_loss(foretold, teacher)) == pytest.approx((9 / 25 + 1) / 2)
    assert float(hint_loss(teacher, teacher)) == 0
    # Whatever the scale of the layer is.
    assert float(hint_loss(foretold * 100, teacher * 100)) == pytest.approx((9 / 25 + 1) / 2)


def test_a_larger_image_is_averaged_down_to_the_smaller() -> None:
    teacher = torch.rand(2, 3, 2, 2)
    assert float(hint_loss(teacher.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), teacher)) == pytest.approx(
        0, abs=1e-6
    )
    assert float(hint_loss(torch.rand(2, 3, 4, 4), teacher)) > 0.01


def test_padding_counts_for_nothing() -> None:
    teacher, foretold = torch.rand(2, 4, 3), torch.rand(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    wild = foretold.clone()
    wild[0, 2:] = 1e4
    assert float(hint_loss(wild, teacher, mask)) == float(hint_loss(foretold, teacher, mask))
    alone = float(hint_loss(foretold[:1, :2], teacher[:1, :2])), float(hint_loss(foretold[1:], teacher[1:]))
    assert float(hint_loss(foretold, teacher, mask)) == pytest.approx(sum(alone) / 2)


def test_a_row_on_which_the_teachers_layer_is_silent_moves_nothing() -> None:
    teacher = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    foretold = torch.tensor([[1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    loss = hint_loss(foretold, teacher)
    torch.autograd.backward(loss)
    assert foretold.grad is not None
    assert float(loss.detach()) == pytest.approx(9 / 25 / 2)
    assert not foretold.grad[0].any()
    assert foretold.grad[1].any()
