"""Pipeline: a way from a teacher to a model that can be served, as data."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from optimization.distill.parameters import Distill
from optimization.prune.settings import FineTune, Prune
from optimization.quantize.choice import NoQuantization, Quantization
from optimization.quantize.choice import from_json as quantization_from_json
from optimization.quantize.choice import to_json as quantization_to_json


@dataclass(frozen=True)
class Pipeline:
    """The passes in the order in which they run; each may be left out.

    `distill` None: the teacher itself goes on. `prune` takes channels or blocks out of what `distill` left.
    """

    distill: Distill | None = None
    prune: Prune | None = None
    quantize: Quantization = NoQuantization()  # noqa: RUF009  # frozen

    @property
    def trained(self) -> "Pipeline":
        """The training that others build on: pipelines which share it differ in how what came of it is quantized."""
        return Pipeline(self.distill, self.prune)

    @property
    def label(self) -> str:
        """What a reader tells it from others by."""
        parts = [_say_distill(self.distill), _say_prune(self.prune), _say_quantization(self.quantize)]
        return ", ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        return {
            "distill": None if self.distill is None else self.distill.to_json(),
            "prune": None if self.prune is None else dataclasses.asdict(self.prune),
            "quantize": quantization_to_json(self.quantize),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Pipeline":
        """Inverse of `to_json`; what is left out of a pass takes its default. Raises ValueError on anything else."""
        unknown = [name for name in data if name not in Pipeline.__dataclass_fields__]
        if unknown:
            raise ValueError(
                f"a pipeline has no {', '.join(unknown)}; it has {', '.join(Pipeline.__dataclass_fields__)}"
            )
        distill, quantize = data.get("distill"), data.get("quantize")
        return Pipeline(
            None if distill is None else Distill.from_json(distill),
            None if data.get("prune") is None else prune_from_json(data["prune"]),
            NoQuantization() if quantize is None else quantization_from_json(quantize),
        )


def prune_from_json(data: Mapping[str, Any]) -> Prune:
    """Inverse of `dataclasses.asdict`; raises ValueError on what is no Prune."""
    try:
        return Prune(**{**data, "fine_tune": FineTune(**data.get("fine_tune", {}))})
    except TypeError as error:
        raise ValueError(f"the parameters of a pruning, {dict(data)}, cannot be read: {error}") from error


def _say_distill(distill: Distill | None) -> str:
    if distill is None:
        return "teacher"
    changed = _changed(distill.to_json(), Distill().to_json(), leave_out=("student", "settings", "init_from"))
    if distill.init_from:
        changed.append(f"from {PurePath(distill.init_from).name}")
    return " ".join(
        ["student", *([distill.student] if distill.student else []), *map(_say_setting, distill.settings), *changed]
    )


def _say_setting(setting: str) -> str:
    """The last part of a field's path tells it: widths=8,16,32."""
    path, equals, value = setting.partition("=")
    return f"{path.rpartition('.')[2]}{equals}{value}"


def _say_prune(prune: Prune | None) -> str:
    if prune is None:
        return ""
    goal = (
        f"-{prune.amount:.0%} {prune.unit}" if prune.amount is not None else f"{prune.unit} out to {prune.speedup:g}x"
    )
    given = dataclasses.asdict(prune)
    plain = dataclasses.asdict(Prune(prune.amount, prune.speedup))
    return " ".join([goal, *_changed(given, plain, leave_out=("fine_tune", "unit"))])


def _say_quantization(quantize: Quantization) -> str:
    said = quantization_to_json(quantize)
    kind = said.pop("kind")
    if kind == "none":
        return ""
    return " ".join([kind.replace("_", " "), *_changed(said, quantization_to_json(type(quantize)()))])


def _changed(given: Mapping[str, Any], plain: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> list[str]:
    """`field=value` of what differs from the defaults."""
    found = []
    for name, value in given.items():
        if name in leave_out or value == plain.get(name):
            continue
        if isinstance(value, Mapping):
            found += _changed(value, plain.get(name) or {})
        else:
            found.append(f"{name}={value if isinstance(value, str | int | float) else json.dumps(value, default=str)}")
    return found
