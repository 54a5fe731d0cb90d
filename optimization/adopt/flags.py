"""The command line options that say which model is brought from elsewhere."""

import argparse

from optimization.adopt.adoption import Adoption
from optimization.adopt.graft import Scaling
from optimization.adopt.origin import FromOnnx, FromTorch, Origin
from training.models.architecture import Architecture
from training.options import absolute_path, read_source
from training.task import read_settings


def add_adoption_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a model that was not trained here")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument(
        "--from-torch", metavar="MODULE:CALLABLE", help="its architecture: a built-in name, or what makes the nn.Module"
    )
    kinds.add_argument("--from-onnx", type=absolute_path, metavar="FILE", help="its graph, in float32")
    group.add_argument("--weights", type=absolute_path, metavar="FILE", help="of --from-torch: .safetensors, .pt, .th")
    group.add_argument(
        "--model-param", action="append", default=[], metavar="NAME=VALUE", help="of --from-torch: of the architecture"
    )
    group.add_argument(
        "--mean", type=_numbers, metavar="R,G,B", help="of --from-onnx: of pixels 0..1, where it reads floats"
    )
    group.add_argument("--std", type=_numbers, metavar="R,G,B", help="the same")
    group.add_argument("--task", help="the task that it was trained for")
    group.add_argument("--task-param", action="append", default=[], metavar="NAME=VALUE", help="of the task")


def read_adoption(arguments: argparse.Namespace) -> Adoption | None:
    """What the options ask for; None where they bring no model. Raises ValueError where they do not go together."""
    if not arguments.from_torch and not arguments.from_onnx:
        return None
    if not arguments.task:
        raise ValueError("--task is missing: name the task that the model was trained for")
    params = read_settings(arguments.task, arguments.task_param)
    return Adoption(_origin(arguments), arguments.task, read_source(arguments, arguments.data_dir), params)


def _origin(arguments: argparse.Namespace) -> Origin:
    if arguments.from_torch:
        if not arguments.weights:
            raise ValueError(f"--from-torch {arguments.from_torch} needs --weights FILE")
        if arguments.mean or arguments.std:
            raise ValueError("--mean and --std are of --from-onnx: a module scales its pixels itself (--model-param)")
        params = read_settings(arguments.from_torch, arguments.model_param)
        return FromTorch(Architecture(arguments.from_torch, params), arguments.weights)
    if arguments.weights or arguments.model_param:
        raise ValueError("--weights and --model-param are of --from-torch: a graph holds its weights and its shape")
    if bool(arguments.mean) != bool(arguments.std):
        raise ValueError("--mean and --std go together: (pixel / 255 - mean) / std")
    return FromOnnx(arguments.from_onnx, Scaling(arguments.mean, arguments.std) if arguments.mean else None)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
