"""Space: which pipelines a search looks at. Every combination of what is listed for each pass."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from optimization.distill.parameters import Distill
from optimization.prune.settings import FineTune, Prune
from optimization.quantize.choice import NoQuantization, Quantization
from optimization.quantize.dynamic import DynamicInt8
from optimization.quantize.mixed import MixedPrecision
from optimization.quantize.static import StaticInt8
from optimization.search.pipeline import Pipeline
from training.encoding import Encoding, ImageEncoding
from training.recipe import Recipe

# A pruned model of the default space learns again for so long, by the answers of the whole one.
FINE_TUNE = FineTune(epochs=3, learn_from="distil", lr_share=0.25)


@dataclass(frozen=True)
class Space:
    """What each pass may be. Not to do one is a choice as well, and listed where it competes."""

    distill: tuple[Distill | None, ...] = (None,)
    prune: tuple[Prune | None, ...] = (None,)
    quantize: tuple[Quantization, ...] = (NoQuantization(),)

    def pipelines(self) -> tuple[Pipeline, ...]:
        """Every combination, in an order in which what others build on comes first."""
        found = [Pipeline(*each) for each in itertools.product(self.distill, self.prune, self.quantize)]
        doubled = {one.label for one in found if found.count(one) > 1}
        if doubled:
            raise ValueError(f"the space lists {'; '.join(sorted(doubled))} more than once")
        return leaders_first(found)

    def to_json(self) -> dict[str, Any]:
        made = [Pipeline(distill=one).to_json()["distill"] for one in self.distill]
        cut = [Pipeline(prune=one).to_json()["prune"] for one in self.prune]
        return {
            "distill": made,
            "prune": cut,
            "quantize": [Pipeline(quantize=one).to_json()["quantize"] for one in self.quantize],
        }


def leaders_first(pipelines: Sequence[Pipeline]) -> tuple[Pipeline, ...]:
    """Of pipelines that share a training, one goes first and makes it; what is pruned of a student comes last of those.

    Else those that run at the same time would wait for one and the same training.
    """

    def place(one: Pipeline) -> tuple[bool, bool, bool]:
        return one.distill is not None and one.prune is not None, one.distill is None, one.prune is None

    seen: set[Any] = set()
    leaders: list[Pipeline] = []
    others: list[Pipeline] = []
    for pipeline in sorted(pipelines, key=place):
        (others if pipeline.trained in seen else leaders).append(pipeline)
        seen.add(pipeline.trained)
    return (*leaders, *others)


def default_space(encoding: Encoding, teacher: Recipe | None, student: Recipe | None) -> Space:
    """What is worth a look where nobody says: the teacher, its student and a narrower one; less channels; fewer bits.

    Channels are taken out of images' models, and only where `teacher`, the recipe by which they learn again, is known.
    """
    distill: list[Distill | None] = [None]
    if student is not None:
        distill.append(Distill())
        narrower = narrowed(student)
        if narrower:
            distill.append(Distill(settings=narrower))
    if not isinstance(encoding, ImageEncoding):
        return Space(tuple(distill), quantize=(NoQuantization(), DynamicInt8(), DynamicInt8(per_channel=True)))
    prune: tuple[Prune | None, ...] = (None,)
    if teacher is not None:
        prune = (None, Prune(0.3, fine_tune=FINE_TUNE), Prune(0.5, fine_tune=FINE_TUNE))
    quantize = (NoQuantization(), StaticInt8(), StaticInt8("percentile"), MixedPrecision())
    return Space(tuple(distill), prune, quantize)


def narrowed(recipe: Recipe) -> tuple[str, ...]:
    """Settings that make the recipe's model half as wide; none where its architecture has no widths that we know."""
    parameters = recipe.architecture.params
    widths = parameters.get("widths")
    if widths:
        return (f"architecture.params.widths={','.join(str(max(4, width // 2)) for width in widths)}",)
    names = [name for name in ("embedding", "hidden", "width") if isinstance(parameters.get(name), int)]
    return tuple(f"architecture.params.{name}={max(4, parameters[name] // 2)}" for name in names)


def read_space(path: Path, fallback: Space) -> Space:
    """From a YAML or JSON file with a list for each pass; a pass that it leaves out is as in `fallback`.

    An `init_from` in it is relative to where the command is run, as on a command line; trials are run elsewhere.

    Raises ValueError where the file is no space.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds no space: write a list under {', '.join(Space.__dataclass_fields__)}")
    unknown = [name for name in data if name not in Space.__dataclass_fields__]
    if unknown:
        raise ValueError(f"{path}: a space has no {', '.join(map(str, unknown))}; it has "
                         f"{', '.join(Space.__dataclass_fields__)}")  # fmt: skip
    given = {}
    for name, listed in data.items():
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"{path}: {name} is {listed!r}: list what the pass may be, such as [null]")
        try:
            given[name] = tuple(getattr(Pipeline.from_json({name: one}), name) for one in listed)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {name}: {error}") from error
    given["distill"] = tuple(map(_located, given.get("distill", fallback.distill)))
    return dataclasses.replace(fallback, **given)


def _located(distill: Distill | None) -> Distill | None:
    if distill is None or not distill.init_from:
        return distill
    return dataclasses.replace(distill, init_from=str(Path(distill.init_from).resolve()))
