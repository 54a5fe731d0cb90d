"""Spread: a model cut among processes. By FSDP2 each holds a share of every weight and gathers a block's when it runs;
by tensor parallel peers each compute a share of every block; HSDP keeps several spread copies.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from training.loop.worker import Worker
from training.models.blocks import blocks
from training.parallel.attention import attentions, pack, packed_name, split_attention, unpack
from training.parallel.grid import Grid
from training.parallel.layout import Split, splits
from training.parallel.plan import Plan
from training.parallel.shards import SharedScaler, cut_like, global_norm, scale_down, whole
from training.parallel.strategy import Strategy
from training.recipe import Recipe

# Autocast leaves these their float32 statistics, beside which they take no other weights: such a model's are gathered
# in float32.
_IN_FULL_PRECISION = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


class Spread(Strategy):
    """Where the plan says `data`, every copy of the model is whole along the data axes, and its gradients are averaged
    by the same FSDP2.
    """

    def __init__(self, recipe: Recipe, worker: Worker, plan: Plan) -> None:
        super().__init__(recipe, worker, plan)
        self.grid = Grid(worker, plan.shape(worker.world_size))
        self._attentions: list[str] = []

    @property
    def reader(self) -> Worker:
        return self.grid.reader

    @property
    def draws(self) -> int:
        return self.grid.stage * self.grid.shape.data + self.grid.reader.rank

    @property
    def counts(self) -> bool:
        return self.grid.tensor_rank == 0

    @property
    def is_sharded(self) -> bool:
        return True

    def spread(self, module: nn.Module) -> None:
        if self.grid.shape.data > 1:
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 takes no other
        self._attentions = attentions(module)
        split_attention(module)
        self._keep_stage(module)
        self._share_blocks(module)
        self._shard(module)

    def _keep_stage(self, module: nn.Module) -> None:
        """Let go of what other stages hold; here there is one."""

    def _share_blocks(self, module: nn.Module) -> None:
        """Tensor parallel: cut what can be cut in every block."""
        if self.grid.shape.tensor == 1:
            return
        found = splits(module)
        if not found:
            raise ValueError(
                f"{type(module).__name__} has no layers that are known to be split (training/parallel/layout.py): "
                "use sharded, pipeline or data parallel"
            )
        for layer, split in found:
            if not any(True for _ in layer.parameters()):
                continue  # of another stage
            check_split(layer, split, self.grid.shape.tensor)
            styles = {name: ColwiseParallel() for name in split.columns}
            parallelize_module(layer, self.grid.mesh["tensor"], styles | {n: RowwiseParallel() for n in split.rows})

    def _shard(self, module: nn.Module) -> None:
        """FSDP2, block by block, so that one block's weights are gathered while another computes."""
        shape = self.grid.shape
        if self.recipe.compile:
            for block in blocks(module) or [module]:
                block.compile()
        if shape.data == 1:
            return
        low = None if any(isinstance(part, _IN_FULL_PRECISION) for part in module.modules()) else self._low
        # Weights travel and compute in low precision; gradients are summed, and the optimizer works, in float32.
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        mesh = self.grid.mesh["replicas", "shards"] if shape.replicas > 1 else self.grid.mesh["shards"]
        for part in (*blocks(module), module):
            # The outermost too: what is left gathered after an evaluation would be neither averaged nor saved.
            fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)

    def whole_name(self, name: str) -> str:
        return packed_name(name, self._attentions)

    def wrap(self, module: nn.Module) -> None:
        self.model = module

    def make_scaler(self) -> torch.amp.GradScaler:
        return SharedScaler(self.worker.device.split(":")[0], enabled=self.recipe.precision == "fp16")

    @contextlib.contextmanager
    def accumulating(self) -> Iterator[None]:
        if not isinstance(self.model, FSDPModule):
            yield
            return
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = global_norm(gradients, self.grid.shape.data * self.grid.shape.tensor, self.worker.device)
        scale_down(parameters, norm, max_norm)
        return norm

    def logits(self, module: nn.Module, inputs: Tensor) -> Tensor:
        # Weights gathered in low precision fit operations under autocast alone.
        with self.autocast():
            logits: Tensor = module(inputs)
        return logits.float()

    def share_buffers(self, module: nn.Module) -> None:
        self.grid.share_buffers(module)

    def sum_over_workers(self, values: Sequence[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64, device=self.worker.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def totals(self, loss_sum: Tensor, rows: int) -> tuple[Tensor, int]:
        loss, count = self.sum_over_workers([float(loss_sum), rows])
        return torch.tensor(loss, dtype=loss_sum.dtype), round(count)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One tensor at a time is whole on each device; they collect in the memory of the first process."""
        collects = self.grid.is_leader
        held: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            full = whole(tensor.detach())
            if collects:
                held[name] = full.cpu()
        leaders = self.grid.leaders
        if leaders is not None and self.grid.shape.pipeline > 1:
            parts: list[dict[str, Tensor]] | None = [{}] * self.grid.shape.pipeline if not self.worker.rank else None
            distributed.gather_object(held, parts, group=leaders)
            held = {name: tensor for part in parts or [] for name, tensor in part.items()}
        return pack(held, self._attentions) if self.worker.rank == 0 else {}

    def parts(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is cut; of what is not, each process may have other running statistics, and the leader's are kept."""
        if self.grid.is_leader:
            return dict(tensors)
        return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}

    def scatter(self, full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = unpack(full, self._attentions)
        return {name: cut_like(parts[name], tensor) for name, tensor in like.items() if name in parts}


def check_split(layer: nn.Module, split: Split, peers: int) -> None:
    """Raises ValueError where `peers` cannot share `layer` evenly."""
    sizes = {name: layer.get_submodule(name).out_features for name in split.columns}
    sizes |= {name: layer.get_submodule(name).in_features for name in split.rows}
    unit = int(getattr(layer, "head_width", 1))
    for name, size in sizes.items():
        if int(size) % (peers * unit):  # type: ignore[arg-type]
            what = f"{int(size) // unit} heads" if unit > 1 else f"{size} units"  # type: ignore[arg-type]
            raise ValueError(
                f"{type(layer).__name__}.{name} has {what}, which {peers} tensor peers cannot share evenly: "
                "use a number that divides it (tensor)"
            )
