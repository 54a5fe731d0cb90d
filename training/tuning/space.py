"""Space: which recipe fields a sweep varies, and between what. Drawn with numpy alone; no Ray, no optuna.

A point is one choice of every field, field -> value, as JSON holds it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from training.recipe import Recipe, flatten, override

Value = str | int | float
Point = Mapping[str, Value]
Kind = Literal["log", "lin", "int", "choice"]

RESAMPLED = 0.25  # the share of perturbations that draw anew (Jaderberg et al. 2017, as Ray Tune has it)
FACTORS = (0.8, 1.2)  # and what the others multiply by
DIGITS = 4  # of a number that is drawn: more say nothing, and a person may have to type them
SYNTAX = "write FIELD=log:1e-4..1e-1, FIELD=lin:0..0.5, FIELD=int:2..10 or FIELD=choice:64,128,256"


@dataclass(frozen=True)
class Range:
    """The values one field may take: from `low` to `high`, both included, or one of `choices`.

    `whole` rounds a `log` range, for a field of whole numbers such as batch_size.
    """

    field: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()
    whole: bool = False

    def sample(self, generator: np.random.Generator) -> Value:
        if self.kind == "choice":
            return self.choices[int(generator.integers(len(self.choices)))]
        if self.kind == "int":
            return int(generator.integers(int(self.low), int(self.high) + 1))
        return self.at(float(generator.random()))

    def at(self, share: float) -> Value:
        """The value at `share` (0 to 1) of the way, in the range's own scale."""
        if self.kind == "choice":
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "log":
            return self._held(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return self._held(self.low + share * (self.high - self.low))

    def share(self, value: Value) -> float:
        """Inverse of `at`: where `value` lies, 0 to 1; a choice in the middle of its part."""
        if self.kind == "choice":
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        if self.low == self.high:
            return 0.5
        if self.kind == "log":
            return math.log(float(value) / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)

    def grid(self, points: int) -> list[Value]:
        """Every value where there are few, else `points` of them evenly spaced in the range's own scale."""
        if self.kind == "choice":
            return list(self.choices)
        if self.low == self.high:
            return [self.at(0.0)]
        if self.kind == "int" and self.high - self.low < points:
            return list(range(int(self.low), int(self.high) + 1))
        return list(dict.fromkeys(self.at(i / (points - 1)) for i in range(points)))

    def perturb(self, value: Value, generator: np.random.Generator) -> Value:
        """A value near `value`, or now and then any: how a population explores."""
        if generator.random() < RESAMPLED:
            return self.sample(generator)
        up = bool(generator.integers(2))
        if self.kind == "choice":
            place = self.choices.index(str(value)) + (1 if up else -1)
            return self.choices[min(max(place, 0), len(self.choices) - 1)]
        moved = float(value) * FACTORS[up]
        if (self.kind == "int" or self.whole) and round(moved) == value:
            moved = float(value) + (1 if up else -1)
        return self._held(moved)

    def _held(self, number: float) -> Value:
        if self.kind == "int" or self.whole:
            return round(min(max(number, self.low), self.high))
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Space:
    ranges: tuple[Range, ...]

    def sample(self, seed: int, number: int) -> Point:
        """The point of trial `number`: a pure function, so that a sweep may be resumed or made longer."""
        generator = np.random.default_rng((seed, number))
        return {one.field: one.sample(generator) for one in self.ranges}

    def grid(self, points: int) -> list[Point]:
        """Every combination of `Range.grid(points)`, the last field changing fastest."""
        values = [one.grid(points) for one in self.ranges]
        return [dict(zip(self.fields, chosen, strict=True)) for chosen in itertools.product(*values)]

    def perturb(self, point: Point, generator: np.random.Generator) -> Point:
        return {one.field: one.perturb(point[one.field], generator) for one in self.ranges}

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(one.field for one in self.ranges)


def settings(point: Point) -> list[str]:
    """The point as `training.recipe.override` and `--set` take it; floats to their last digit."""
    return [f"{field}={value!r}" if isinstance(value, float) else f"{field}={value}" for field, value in point.items()]


def parse_space(recipe: Recipe, texts: Sequence[str]) -> Space:
    """`["optimizer.lr=log:1e-4..1e-1", "batch_size=choice:64,128"]` -> Space, checked against `recipe`.

    Choices that hold commas themselves are divided by `|`. Raises ValueError on what is no range, on an unknown
    field, and on bounds that the recipe refuses.
    """
    if not texts:
        raise ValueError(f"a sweep needs at least one --range: {SYNTAX}")
    ranges = tuple(_parse_range(recipe, text) for text in texts)
    fields = [one.field for one in ranges]
    for field in fields:
        if fields.count(field) > 1:
            raise ValueError(f"{field} has {fields.count(field)} ranges: give it one")
    return Space(ranges)


def _parse_range(recipe: Recipe, text: str) -> Range:
    field, equals, rest = text.partition("=")
    kind, colon, values = rest.partition(":")
    if not (field and equals and colon and values) or kind not in ("log", "lin", "int", "choice"):
        raise ValueError(f"range {text!r} cannot be read: {SYNTAX}")
    if kind == "choice":
        choices = tuple(part.strip() for part in values.split("|" if "|" in values else ","))
        if len(set(choices)) < len(choices):
            raise ValueError(f"range {text!r} names a choice twice")
        parsed = Range(field, "choice", choices=choices)
        ends: Sequence[Value] = choices
    else:
        parsed = _parse_bounds(recipe, text, field, kind, values)
        ends = (parsed.at(0.0), parsed.at(1.0))
    for value in ends:
        override(recipe, settings({field: value}))
    return parsed


def _parse_bounds(recipe: Recipe, text: str, field: str, kind: Any, values: str) -> Range:
    try:
        low, high = (float(part) for part in values.split(".."))
    except ValueError as error:
        raise ValueError(f"range {text!r}: {values!r} is not LOW..HIGH") from error
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"range {text!r}: {values!r} does not run from a lower to a higher number")
    if kind == "log" and low <= 0:
        raise ValueError(f"range {text!r}: a log range begins above 0")
    current = flatten(recipe).get(field)
    whole = isinstance(current, int) and not isinstance(current, bool)
    if kind == "lin" and whole:
        raise ValueError(f"range {text!r}: {field} is a whole number, so write {field}=int:{values}")
    if (kind == "int" or whole) and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"range {text!r}: {values!r} are no whole numbers")
    return Range(field, kind, low, high, whole=whole and kind == "log")
