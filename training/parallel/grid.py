"""Grid: where this process stands among those that train one model, and whom it talks to."""

from dataclasses import dataclass
from functools import cached_property

from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from training.loop.worker import Worker
from training.parallel.plan import Shape

AXES = ("pipeline", "replicas", "shards", "tensor")


@dataclass(frozen=True)
class Grid:
    """Rank 0 stands at the origin; ranks count along the last axis first.

    `mesh` and `leaders` are made when they are first asked for, by all processes together.
    """

    worker: Worker
    shape: Shape

    @cached_property
    def mesh(self) -> DeviceMesh:
        sizes = tuple(getattr(self.shape, axis) for axis in AXES)
        return init_device_mesh(self.worker.device.split(":")[0], sizes, mesh_dim_names=AXES)

    @cached_property
    def leaders(self) -> distributed.ProcessGroup | None:
        """The first process of each stage, on the CPU; None to the others."""
        ranks = list(range(0, self.worker.world_size, self._stage_size))
        group = distributed.new_group(ranks, backend="gloo")
        return group if self.is_leader else None

    @property
    def _stage_size(self) -> int:
        return self.shape.data * self.shape.tensor

    @property
    def is_leader(self) -> bool:
        return self.worker.rank % self._stage_size == 0

    @property
    def stage(self) -> int:
        return self.worker.rank // self._stage_size

    @property
    def is_last_stage(self) -> bool:
        return self.stage == self.shape.pipeline - 1

    @property
    def tensor_rank(self) -> int:
        return self.worker.rank % self.shape.tensor

    @property
    def reader(self) -> Worker:
        """This process as Batches sees it: peers along the tensor and pipeline axes read the same rows."""
        data_rank = self.worker.rank // self.shape.tensor % self.shape.data
        return Worker(data_rank, self.shape.data, self.worker.device)

    def share_buffers(self, module: nn.Module) -> None:
        """Give all that hold the same part of the model the buffers of the first of them."""
        for axis in ("replicas", "shards"):
            if getattr(self.shape, axis) > 1:
                group = self.mesh.get_group(axis)
                for buffer in module.buffers():
                    distributed.broadcast(buffer, group=group, group_src=0)
