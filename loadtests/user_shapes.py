"""Locust's load shapes: how many users there are, by the same shapes as the open loop's request rate.

Locust would run any shape that a locustfile imports by name, so it imports this module and picks one by `--shape`.
"""

import time
from argparse import Namespace
from typing import ClassVar

from locust import LoadTestShape

from loadtests.shapes import Shape, ShapeName


class UserShape(LoadTestShape):
    """`--base-users` to `--users` (-u) over `--run-time` (-t); then the run ends."""

    abstract = True
    use_common_options = True
    name: ClassVar[ShapeName]

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many a second to start or stop to get there; None at the end."""
        assert self.runner is not None, "Locust gives a shape its runner before the first tick"
        options = self.runner.environment.parsed_options
        assert options is not None, "Locust parses the command line before any event"
        shape = user_shape(self.name, options)
        at_s = time.perf_counter() - self.start_time
        if at_s >= shape.duration_s:
            return None
        users = max(1, round(shape.rate(at_s)))
        # Locust looks once a second: a change is to be complete within that time.
        return users, max(1.0, abs(users - self.runner.user_count))


class Steady(UserShape):
    name = "steady"


class Step(UserShape):
    name = "step"


class Spike(UserShape):
    name = "spike"


class Ramp(UserShape):
    name = "ramp"


class Diurnal(UserShape):
    name = "diurnal"


class Drop(UserShape):
    name = "drop"


SHAPES: dict[str, type[UserShape]] = {shape.name: shape for shape in (Steady, Step, Spike, Ramp, Diurnal, Drop)}


def user_shape(name: ShapeName, options: Namespace) -> Shape:
    """The shape that Locust's command line asks for; raises ValueError where it says nothing of users or of time."""
    if not options.num_users or not options.run_time:
        raise ValueError("a shape needs its largest number of users and how long it lasts: give -u and -t")
    return Shape(name, options.base_users, options.num_users, float(options.run_time))
