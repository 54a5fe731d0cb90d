"""Metered: a Batcher whose batches and refusals are counted, here or in the replica of a deployment."""

from dataclasses import dataclass

from apps.batching.batcher import Batcher
from apps.observe.meter import Meter, Role


@dataclass(frozen=True)
class CountedAs:
    """The labels of what a deployment's replica counts."""

    model: str
    release: str
    role: Role


def meter_batcher(batcher: Batcher, meter: Meter, release: str, role: Role) -> None:
    """From now on `meter` is told of each batch, each request without an answer, and asked of the queue."""
    batcher.on_batch = meter.batches(release, role)
    batcher.on_shed = lambda why: meter.shed(why, release, role)
    meter.watch_queue(release, role, lambda: batcher.queue_rows)


def export_batcher(batcher: Batcher, counted_as: CountedAs) -> None:
    """Count in this replica of a deployment, and carry it to Ray's exporter."""
    from apps.observe.exporter import Exporter, RaySink
    from apps.observe.meter import ServeMeter

    exporter = Exporter(RaySink())
    meter_batcher(batcher, ServeMeter(counted_as.model, exporter), counted_as.release, counted_as.role)
    exporter.start()
