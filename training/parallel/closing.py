"""Closing: how a process leaves the others that it trained with."""

import gc
import time

SETTLE_S = 0.05


def close_process_group() -> None:
    """End the default process group; this thread is the last to let go of it.

    A gradient hook's callback ends in a thread of the group a moment after its result is there. Were that thread the
    last to hold the group, it would wait for its own end, which ends the process ("Resource deadlock avoided").
    """
    from torch import distributed

    held = distributed.group.WORLD
    distributed.destroy_process_group()
    gc.collect()  # what DistributedDataParallel leaves behind holds it in circles
    time.sleep(SETTLE_S)
    del held
