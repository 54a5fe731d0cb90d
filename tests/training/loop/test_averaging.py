import copy
import dataclasses
import io

import torch
from torch import nn

from tests.toys import IMAGES, image_recipe
from training.loop.averaging import make_average
from training.models.architecture import build


def _module() -> nn.Module:
    torch.manual_seed(0)
    return build(image_recipe().architecture, IMAGES)


def _move(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))


def test_there_is_no_average_unless_it_is_asked_for() -> None:
    assert make_average(image_recipe(), _module()) is None


def test_weights_are_averaged_with_a_rising_decay_and_buffers_copied() -> None:
    module = _module()
    averaged = make_average(dataclasses.replace(image_recipe(), ema_decay=0.3), module)
    assert averaged is not None
    expected = {}
    for step in range(8):
        _move(module)
        averaged.update_parameters(module)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, weight in module.named_parameters():
            kept = weight.detach().clone()
            expected[name] = decay * expected[name] + (1 - decay) * kept if step else kept
    for name, weight in averaged.module.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name])
    for name, buffer in averaged.module.named_buffers():
        assert torch.equal(buffer, dict(module.named_buffers())[name])


def test_a_loaded_average_goes_on_to_the_bit() -> None:
    recipe, module = dataclasses.replace(image_recipe(), ema_decay=0.9), _module()
    averaged = make_average(recipe, module)
    assert averaged is not None
    for _ in range(3):
        _move(module)
        averaged.update_parameters(module)
    file = io.BytesIO()
    torch.save(averaged.state_dict(), file)
    file.seek(0)
    other = make_average(recipe, _module())
    assert other is not None
    other.load_state_dict(torch.load(file, weights_only=True))
    later = copy.deepcopy(module)
    _move(later)
    averaged.update_parameters(later)
    other.update_parameters(later)
    for name, tensor in averaged.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
