import copy
import dataclasses
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.toys import IMAGES, TEXTS, image_recipe
from training.loop.optimizers import hidden_matrices, make_optimizer
from training.models.architecture import Architecture, build
from training.recipe import Optimizer, Recipe

CHOICES = [
    Optimizer("sgd", lr=0.1, weight_decay=1e-3),
    Optimizer("adamw", lr=1e-2),
    Optimizer("muon", lr=5e-2, weight_decay=0.1, momentum=0.95),
]
NAMES = ["sgd", "adamw", "muon"]
CONVNET = Architecture("convnet", {"widths": [8, 12], "blocks": 2})


def _recipe(choice: Optimizer) -> Recipe:
    return dataclasses.replace(image_recipe(), optimizer=choice)


def _module(architecture: Architecture = CONVNET, channels_last: bool = True) -> nn.Module:
    torch.manual_seed(0)
    module = build(architecture, IMAGES)
    return module.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def _train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 3, (16,), generator=generator)
        images = torch.randint(0, 80, (16, 1, 4, 4), generator=generator, dtype=torch.uint8)
        images[torch.arange(16), 0, labels] += 150
        loss = functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _names(module: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    chosen = set(map(id, parameters))
    return {name for name, parameter in module.named_parameters() if id(parameter) in chosen}


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
def test_a_model_learns(choice: Optimizer) -> None:
    module = _module()
    losses = _train(module, make_optimizer(_recipe(choice), module), range(40))
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
def test_every_parameter_has_one_group_and_those_of_one_axis_are_not_decayed(choice: Optimizer) -> None:
    module = _module()
    groups = make_optimizer(_recipe(choice), module).param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, module.parameters()))
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (choice.weight_decay if parameter.ndim > 1 else 0)


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
def test_a_loaded_optimizer_goes_on_to_the_bit(choice: Optimizer) -> None:
    module = _module()
    optimizer = make_optimizer(_recipe(choice), module)
    _train(module, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = _module()
    resumed = make_optimizer(_recipe(choice), other)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    _train(module, optimizer, range(5, 10))
    _train(other, resumed, range(5, 10))
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), other.parameters(), strict=True))
    _same_state(optimizer.state_dict(), resumed.state_dict())


def _same_state(one: object, other: object) -> None:
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys()
        for name in one:
            _same_state(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert isinstance(other, type(one))
        for mine, theirs in zip(one, other, strict=True):
            _same_state(mine, theirs)
    else:
        assert one == other


def test_muon_steps_matrices_as_torchs_own_does() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    choice = Optimizer("muon", lr=0.02, weight_decay=0.1, momentum=0.95, adamw_lr_share=0.25)
    optimizer = make_optimizer(_recipe(choice), module)
    twin = copy.deepcopy(module)
    hidden = [twin[0].weight, twin[2].weight]
    others = [twin[4].weight]
    biases = [twin[0].bias, twin[2].bias, twin[4].bias]
    muon = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.95)
    adamw = torch.optim.AdamW([{"params": others, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0}], lr=5e-3)
    for _ in range(4):
        for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        optimizer.step()
        muon.step()  # type: ignore[no-untyped-call]
        adamw.step()
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("channels_last", [False, True])
def test_muon_steps_a_filter_as_the_matrix_it_flattens_to(channels_last: bool) -> None:
    module = _module(channels_last=channels_last)
    optimizer = make_optimizer(_recipe(CHOICES[2]), module)
    filters = [p for p in hidden_matrices(module) if p.ndim == 4]
    assert filters
    matrices = [p.detach().clone(memory_format=torch.contiguous_format).flatten(1) for p in filters]
    muon = torch.optim.Muon(matrices, lr=0.05, weight_decay=0.1, momentum=0.95)
    for _ in range(3):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        for parameter, matrix in zip(filters, matrices, strict=True):
            assert parameter.grad is not None
            matrix.grad = parameter.grad.flatten(1)
        optimizer.step()
        muon.step()  # type: ignore[no-untyped-call]
    for parameter, matrix in zip(filters, matrices, strict=True):
        assert torch.equal(parameter.detach().flatten(1), matrix)


def test_muon_is_for_hidden_filters_alone() -> None:
    module = _module(Architecture("resnet", {"widths": [8, 12]}))
    filters = {name for name, parameter in module.named_parameters() if parameter.ndim == 4}
    assert _names(module, hidden_matrices(module)) == filters - {"1.0.weight"}


def test_muon_leaves_embeddings_and_every_head_alone() -> None:
    sizes = {"vocabulary": 40, "embedding": 8, "hidden": 6}
    module = build(Architecture("lstm", sizes), TEXTS)
    names = _names(module, hidden_matrices(module))
    assert names == {
        f"{way}_lstm.weight_{kind}_l0" for way in ("forward", "backward") for kind in ("ih", "hh")
    }  # not the embeddings, head or words_head


def test_muon_leaves_filters_of_single_channels_alone() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 9, 1), nn.Linear(9, 3))
    assert _names(module, hidden_matrices(module)) == {"2.weight"}


def test_muon_without_a_hidden_matrix_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"optimizer\.name is 'muon', but the model has no hidden matrix .*: use adamw"
    ):
        make_optimizer(_recipe(CHOICES[2]), nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))


def test_muon_steps_what_has_a_gradient_and_leaves_the_rest() -> None:
    module = _module()
    optimizer = make_optimizer(_recipe(CHOICES[2]), module)
    frozen = hidden_matrices(module)[0].requires_grad_(False)
    before = frozen.clone()
    _train(module, optimizer, range(3))
    assert torch.equal(frozen, before)
