"""Weights from a file into a module: by name and shape, and what does not fit is told by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.artifact import MANIFEST_FILE, MODEL_FILE, load_artifact

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt")
# Under which a training's checkpoint keeps the weights among other things.
_STATE_NAMES = ("state_dict", "model_state_dict", "model")
# What DistributedDataParallel and torch.compile put before the names of what they wrap.
_WRAPPERS = ("module.", "_orig_mod.")
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class WeightsReport:
    """What became of the weights of `source`, by name."""

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the module, which the file lacks: they keep the values they had
    unexpected: tuple[str, ...]  # of the file, which the module lacks
    reshaped: tuple[str, ...]  # of both, in shapes that differ: they keep the values they had

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} weights loaded from {self.source}"]
        for what, names in (
            ("not in the file, left as they were", self.missing),
            ("only in the file, left out", self.unexpected),
            ("of another shape, left as they were", self.reshaped),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {_named(names)}")
        return "\n".join(lines)


def load_all_weights(module: nn.Module, path: Path) -> WeightsReport:
    """As `load_weights`; raises ValueError, naming what is amiss, unless every weight of `module` is in the file, every
    weight of the file in `module`, and all of them are finite.

    Counters that only a training reads may be missing: PyTorch has them since 0.4.1.
    """
    report = load_weights(module, path)
    missing = tuple(name for name in report.missing if name.rpartition(".")[2] != "num_batches_tracked")
    infinite = tuple(name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all())
    faults = [
        f"{what} {_named(names)}"
        for what, names in (
            ("not in the file:", missing),
            ("not in the model:", report.unexpected),
            ("of another shape:", report.reshaped),
            ("not finite:", infinite),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{path} does not hold the model's weights, whole and sound: {'; '.join(faults)}")
    return report


def load_weights(module: nn.Module, path: Path) -> WeightsReport:
    """Load into `module` what fits it of a file (.safetensors, or a torch.save of tensors) or an Artifact's folder.

    Names may stand under `module.` or `_orig_mod.`, and may lack the name of the one part of `module` that they
    are of. Raises ValueError where the path holds no weights, or none that fit.
    """
    return assign_weights(module, read_weights(path), str(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU. No code is read: of torch files only tensors and plain containers are."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_dir():
        path = _model_file(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}: there is no such file")
    if path.suffix == SAFETENSORS_SUFFIX:
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no sound safetensors file: {error}") from error
        return tensors
    if path.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"{path} is no {SAFETENSORS_SUFFIX} nor {', '.join(TORCH_SUFFIXES)}: rename it by what it is")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise types with no common root on a damaged or foreign file
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as tensors alone, and nothing else is read: {reason}") from error
    return _tensors(content, path)


def assign_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> WeightsReport:
    """Load into `module` those of `tensors` that fit it. Raises ValueError where no parameter fits."""
    own = module.state_dict()
    given = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    # A file written for the network inside of a module that prepares its input fits that network.
    prefixes = ["", *(f"{name}." for name, _ in module.named_children())]
    prefix = max(prefixes, key=lambda prefix: sum(prefix + name in own for name in given))
    given = {prefix + name: tensor for name, tensor in given.items()}
    shared = [name for name in own if name in given]
    fitting = {name: given[name] for name in shared if given[name].shape == own[name].shape}
    if not any(name in fitting for name, _ in module.named_parameters()):
        raise ValueError(
            f"nothing in {source} fits the model: it holds {_some(list(tensors))}; the model has {_some(list(own))}"
        )
    module.load_state_dict(fitting, strict=False)
    return WeightsReport(
        source,
        tuple(fitting),
        tuple(name for name in own if name not in given),
        tuple(name for name in given if name not in own),
        tuple(
            f"{name} ({list(given[name].shape)}, not {list(own[name].shape)})" for name in shared if name not in fitting
        ),
    )


def _model_file(folder: Path) -> Path:
    """The weights of an Artifact, whose hashes are verified, or of a folder that holds them under the same name."""
    if (folder / MANIFEST_FILE).is_file():
        artifact = load_artifact(folder)
        if artifact.manifest.format != "torch":
            raise ValueError(f"{folder} is an Artifact of format {artifact.manifest.format}: it holds no weights")
        return artifact.model_path
    return folder / MODEL_FILE["torch"]


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for name in _STATE_NAMES:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not weights by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name, and none under {', '.join(_STATE_NAMES)}")
    return tensors


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "") if names else "nothing"
