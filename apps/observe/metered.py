"""Metered: a Batcher whose batches and refusals are counted, here or in the replica of a deployment, and what its model
really runs on.
"""

from dataclasses import dataclass

from apps.batching.batcher import Batcher
from apps.observe.meter import Meter, Role
from apps.observe.tally import Levels


@dataclass(frozen=True)
class CountedAs:
    """The labels of what a deployment's replica counts."""

    model: str
    release: str
    role: Role


@dataclass(frozen=True)
class RunsOn:
    """The device and precision that a Runner found itself to have, whatever was asked for."""

    device: str
    precision: str


class RunnerInfo:
    """A gauge of 1 whose labels tell what a model runs on: an exporter's Source beside the Meter's numbers."""

    def __init__(self, counted_as: CountedAs, runs_on: RunsOn) -> None:
        self.model = counted_as.model
        info = Levels(
            "tandem_runner_info",
            "1 for the device and precision that a model really runs on.",
            ("version", "role", "device", "precision"),
        )
        info.set((counted_as.release, counted_as.role, runs_on.device, runs_on.precision), 1.0)
        self.families = (info,)


def meter_batcher(batcher: Batcher, meter: Meter, release: str, role: Role) -> None:
    """From now on `meter` is told of each batch, each request without an answer, and asked of the queue."""
    batcher.on_batch = meter.batches(release, role)
    batcher.on_shed = lambda why: meter.shed(why, release, role)
    meter.watch_queue(release, role, lambda: batcher.queue_rows)


def export_batcher(batcher: Batcher, runs_on: RunsOn, counted_as: CountedAs) -> None:
    """Count in this replica of a deployment, and carry it to Ray's exporter."""
    from apps.observe.exporter import Exporter, RaySink
    from apps.observe.meter import ServeMeter

    exporter = Exporter(RaySink())
    meter_batcher(batcher, ServeMeter(counted_as.model, exporter), counted_as.release, counted_as.role)
    exporter.watch(RunnerInfo(counted_as, runs_on))
    exporter.start()
