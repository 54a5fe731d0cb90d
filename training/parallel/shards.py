"""Shards: tensors of which each process holds a part (torch's DTensor), beside those that are not cut."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that lies in this process; all of it where it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`; every process that holds a part calls it, in the same order."""
    if not isinstance(tensor, DTensor):
        return tensor
    # Axis by axis: one collective over several of them cannot put rows in order that were cut twice.
    placements = list(tensor.placements)
    for axis in range(len(placements)):
        placements[axis] = Replicate()
        tensor = tensor.redistribute(placements=placements)
    return tensor.to_local()


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of `tensor`, which all processes hold, cut as `like` is; no communication."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor) or not tensor.ndim:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def global_norm(gradients: Sequence[Tensor], stage_size: int, device: str) -> Tensor:
    """The norm of the gradients of all parts of a model, float32 []; every process calls it.

    `stage_size` is the number of processes that hold a stage together: what is not cut, all of them have.
    """
    squares = torch.zeros((), device=device)
    for gradient in gradients:
        squares += local(gradient).to(torch.float32).square().sum() * (_cuts(gradient) / stage_size)
    distributed.all_reduce(squares)
    return squares.sqrt()


def _cuts(tensor: Tensor) -> int:
    """Into how many different parts a tensor is cut."""
    count = 1
    if isinstance(tensor, DTensor):
        for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
            count *= 1 if placement.is_replicate() else size
    return count


class SharedScaler(torch.amp.GradScaler):
    """All processes skip the same steps: an infinite gradient in one part of the model is one in the model."""

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        # Of local parts, since one call takes no mix of tensors that are cut and tensors that are not.
        gradients = local_gradients(p for group in optimizer.param_groups for p in group["params"])
        if gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inv_scale)
        distributed.all_reduce(found_inf, distributed.ReduceOp.MAX)
        return {found_inf.device: found_inf}


def local_gradients(parameters: Any) -> list[Tensor]:
    return [local(p.grad) for p in parameters if p.grad is not None]


def scale_down(parameters: Sequence[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """Scale gradients whose norm is `norm` so that it is `max_norm` at most, as clip_grad_norm_ does."""
    gradients = local_gradients(parameters)
    if gradients:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].device))
