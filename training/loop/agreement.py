"""Agreement: workers that stop do so before the same step, or the others would wait for them for ever."""

import torch
from torch import Tensor, distributed

from training.loop.worker import Worker


class Agreement:
    """Whether any worker wanted to stop at the step before, known to all alike.

    The question of one step travels while the next is computed, so asking costs no waiting. It has a group of its own
    on the CPU: it neither queues behind gradients nor makes a GPU wait.
    """

    def __init__(self, worker: Worker) -> None:
        self._alone = worker.world_size == 1
        self._group = None if self._alone else distributed.new_group(backend="gloo")
        self._asked: tuple[Tensor, distributed.Work] | None = None

    def reached(self, wants_stop: bool) -> bool:
        if self._alone:
            return wants_stop
        stop = self.settle()
        votes = torch.tensor([int(wants_stop)])
        work = distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = votes, work
        return stop

    def settle(self) -> bool:
        """Wait for what was asked last; True where any worker wanted to stop."""
        if self._asked is None:
            return False
        votes, work = self._asked
        self._asked = None
        work.wait()
        return bool(votes)
