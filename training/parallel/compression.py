"""Gradient compression: what DistributedDataParallel sends in the place of float32 gradients.

fp16, bf16 and PowerSGD are torch's. Signs with error feedback are ours, since torch has none: each worker sends the
sign of every number and one scale a parameter, the mean magnitude, and adds what that left out to its next gradient
(1-bit SGD, Seide et al. 2014; EF-SignSGD, Karimireddy et al. 2019). A 32nd of the bytes leaves a worker, and it
receives as much from each other.

What is left out belongs to a worker and lies in no checkpoint: a resumed training begins without it, as a new one does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from training.parallel.plan import Plan

Hook = Callable[[Any, GradBucket], torch.futures.Future[Tensor]]
# Backward passes that are sent as they are: the one by which buckets settle before the first step, and two steps.
FIRST_STEPS = 3


def make_hook(plan: Plan, group: distributed.ProcessGroup) -> tuple[Any, Hook]:
    """The state and the hook that `plan.compression` asks for."""
    if plan.compression == "powersgd":
        state = PowerSGDState(
            group, matrix_approximation_rank=plan.compression_rank, start_powerSGD_iter=FIRST_STEPS,
            # Without it a layer whose gradient is 0, such as one behind dead units, turns into NaN.
            orthogonalization_epsilon=1e-8,
        )  # fmt: skip
        return state, powerSGD_hook
    if plan.compression == "onebit":
        return OneBit(group), OneBit.send
    return group, default_hooks.fp16_compress_hook if plan.compression == "fp16" else _bf16


def _bf16(group: distributed.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """torch's, by a name of our own: by its own DDP takes it between GPUs alone, though Gloo sums bfloat16 as well."""
    return default_hooks.bf16_compress_hook(group, bucket)


class OneBit:
    """Signs with error feedback. `feedback=False` forgets what was left out, which is what tests compare with."""

    def __init__(self, group: distributed.ProcessGroup, feedback: bool = True) -> None:
        self._group, self._feedback = group, feedback
        self._errors: dict[int, Tensor] = {}
        self._steps = 0

    def send(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        before = self._steps
        self._steps += bucket.is_last()
        if before < FIRST_STEPS:
            return default_hooks.allreduce_hook(self._group, bucket)
        gradient = bucket.buffer()
        sizes = [part.numel() for part in bucket.gradients()]
        error = self._errors.get(bucket.index())
        if error is not None and error.numel() == gradient.numel():
            gradient.add_(error)
        scales = torch.stack([part.abs().mean() for part in torch.split(gradient, sizes)])
        message = torch.cat([scales.to(torch.float32).view(torch.uint8), pack_signs(gradient)])
        if self._feedback:
            # A gradient that is not finite is refused by the loop; remembered, it would spoil all later ones.
            sent = signs_by(gradient >= 0, scales, sizes)
            self._errors[bucket.index()] = (gradient - sent).nan_to_num_(0.0, 0.0, 0.0)
        messages = [torch.empty_like(message) for _ in range(self._group.size())]
        work = distributed.all_gather(messages, message, group=self._group, async_op=True)
        assert work is not None
        averaged: torch.futures.Future[Tensor] = work.get_future().then(partial(_mean_of, messages, sizes, gradient))
        return averaged


def _mean_of(messages: list[Tensor], sizes: list[int], into: Tensor, done: torch.futures.Future[Any]) -> Tensor:
    done.value()  # raises what went wrong
    into.zero_()
    for message in messages:
        scales = message[: 4 * len(sizes)].view(torch.float32).to(into.dtype)
        into.add_(signs_by(unpack_signs(message[4 * len(sizes) :], len(into)), scales, sizes))
    return into.div_(len(messages))


def signs_by(positive: Tensor, scales: Tensor, sizes: list[int]) -> Tensor:
    """`positive` [n] bool, one scale for each run of `sizes` -> the scale with the sign, float [n]."""
    lengths = torch.tensor(sizes, device=scales.device)
    scales_n = scales.repeat_interleave(lengths, output_size=len(positive))
    return torch.where(positive, scales_n, -scales_n)


def pack_signs(numbers: Tensor) -> Tensor:
    """Eight signs a byte, uint8 [ceil(n / 8)]; a bit is set where the number is not negative."""
    bits = torch.nn.functional.pad((numbers >= 0).to(torch.uint8), (0, -len(numbers) % 8)).view(-1, 8)
    return (bits << _places(numbers.device)).sum(dim=1, dtype=torch.uint8)


def unpack_signs(packed: Tensor, count: int) -> Tensor:
    """Inverse: bool [count]."""
    return ((packed[:, None] >> _places(packed.device)) & 1).view(-1)[:count].bool()


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
