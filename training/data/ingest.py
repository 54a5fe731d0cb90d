"""Reading a source once: by Ray Data on all of a cluster, or in this process. The one door to Ray Data in training.

Both run the same function on the same files and give the same rows in the same order.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from training.cluster import connect
from training.data.published import DataCorruptError
from training.data.rows import UNREADABLE, Examiner

if TYPE_CHECKING:
    import pyarrow as pa

# Blocks that leave room for several in a small object store.
BLOCK_BYTES = 8 * 2**20


def read_here(examine: Examiner, units: Sequence[Sequence[str]]) -> "Iterator[pa.Table]":
    """The rows of each unit, a few files each, as `rows.batch_schema` says. Raises DataCorruptError."""
    import pyarrow as pa

    for unit in units:
        for batch in examine(unit):
            yield _readable(pa.Table.from_batches([batch]))


def read_on_ray(examine: Examiner, units: Sequence[Sequence[str]]) -> "Iterator[pa.Table]":
    """As `read_here`, on every CPU of the cluster at RAY_ADDRESS or of one started for it; a unit is one task."""
    connect()
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"paths": list(unit)} for unit in units]
    data = ray.data.from_items(items, override_num_blocks=len(items))
    examined = data.map_batches(partial(_examine_block, examine), batch_size=None, batch_format="numpy")
    options = examined.context
    options.execution_options.preserve_order = True
    options.enable_progress_bars = False
    options.target_max_block_size = BLOCK_BYTES
    for table in examined.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        yield _readable(table)


def inside_a_worker() -> bool:
    """Whether this process works for Ray: its node's CPUs are taken, and Ray Data might wait for them for ever."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return bool(context.get_actor_id() or context.get_task_id())


def _examine_block(examine: Examiner, block: Any) -> "Iterator[pa.Table]":
    import pyarrow as pa

    for paths in block["paths"]:
        for batch in examine([str(path) for path in paths]):
            yield pa.Table.from_batches([batch])


def _readable(table: "pa.Table") -> "pa.Table":
    kinds = table.column("kind").to_pylist()
    if UNREADABLE in kinds:
        raise DataCorruptError(table.column("reason")[kinds.index(UNREADABLE)].as_py())
    return table
