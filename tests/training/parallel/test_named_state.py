import torch
from torch import nn

from training.parallel.layout import Piece
from training.parallel.named_state import load_slots, load_tensors, named_slots, rebind
from training.parallel.pipeline import prune


def _stepped(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    groups = [{"params": [module.get_parameter("0.weight")], "lr": lr}, {"params": [module.get_parameter("1.weight")]}]
    optimizer = torch.optim.AdamW(groups, lr=0.5, foreach=False)
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return optimizer


def _module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False))


def test_what_an_optimizer_remembers_goes_to_another_by_names() -> None:
    torch.manual_seed(0)
    one, other = _module(), _module()
    slots = named_slots(_stepped(one, lr=0.1), one)
    assert slots.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert all(sorted(named) == ["0.weight", "1.weight"] for named in slots.values())
    second = torch.optim.AdamW([{"params": [parameter]} for parameter in reversed([*other.parameters()])], lr=0.3)
    load_slots(second, other, slots)
    assert [group["lr"] for group in second.param_groups] == [0.3, 0.3]
    for name, parameter in other.named_parameters():
        assert torch.equal(second.state[parameter]["exp_avg"], slots["exp_avg"][name])


def test_new_parameters_take_the_places_of_those_that_they_are_made_of() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    weights = {"params": [module.get_parameter("0.weight"), module.get_parameter("1.weight")], "lr": 0.1}
    biases = {"params": [module.get_parameter("0.bias"), module.get_parameter("1.bias")], "lr": 0.2}
    optimizer = torch.optim.SGD([weights, biases])
    # The first layer in two halves; the second is gone.
    module = nn.Sequential(nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 2, bias=False)}))
    rebind(optimizer, names, module, lambda name: name.replace("a.", "").replace("b.", ""))
    groups = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    assert groups == [
        [id(module.get_parameter("0.a.weight")), id(module.get_parameter("0.b.weight"))],
        [id(module.get_parameter("0.a.bias"))],
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_nothing_is_added_to_a_state_for_a_layer_that_was_let_go_of() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    prune(module, [Piece(("0",), lambda x, inputs: module[0](x))])
    weights = {name: torch.ones_like(tensor) for name, tensor in module.state_dict().items()}
    load_tensors(module, weights)
    assert weights.keys() == module.state_dict().keys() == {"0.weight", "0.bias"}
    assert torch.equal(module[0].weight, torch.ones(2, 2))
