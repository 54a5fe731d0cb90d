"""Plan: how many processes share the work of one model. Every setting of it stands here, each default once."""

import argparse
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal

Kind = Literal["data", "sharded"]
Compression = Literal["none", "fp16", "bf16", "powersgd", "onebit"]


@dataclass(frozen=True)
class Shape:
    """The processes as a grid, outermost axis first. Neighbours in rank are tensor peers, who talk most."""

    pipeline: int
    replicas: int
    shards: int
    tensor: int

    @property
    def data(self) -> int:
        """Among how many the rows of a batch are shared out."""
        return self.replicas * self.shards

    @property
    def is_plain(self) -> bool:
        """Whether every process holds the whole model."""
        return self.pipeline == self.tensor == self.shards == 1


@dataclass(frozen=True)
class Plan:
    """A choice of where a training runs, and not of what it learns: no field of it belongs to the Recipe.

    `data`: every process holds the whole model and reads its own rows (torch's DistributedDataParallel).
    `sharded`: weights, gradients and optimizer state are cut among the processes (FSDP2); with `replicas` above 1
    there are so many groups of which each holds a whole model (HSDP). Both go with `tensor` and `pipeline`, whose peers
    read the same rows.
    """

    kind: Kind = "data"
    tensor: int = 1  # processes that share each block's matrices
    pipeline: int = 1  # processes that hold one run of blocks each
    replicas: int = 1
    # The rest of these are DistributedDataParallel's alone.
    bucket_mb: float = 25.0  # gradients are sent in buckets of this size, while the backward pass goes on
    overlap: bool = True  # false: all gradients in one bucket, after the backward pass; for comparison
    static_graph: bool = False  # promise that each step uses the same parameters in the same order
    find_unused_parameters: bool = False  # look each step for those that it did not use, and do not wait for them
    # How gradients are sent: in half the bytes (fp16, bf16), at low rank (Vogels et al. 2019), as signs (one bit).
    compression: Compression = "none"
    compression_rank: int = 4  # powersgd alone
    timeout_s: float = 600.0  # after which a process gives up on the others

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "replicas", "compression_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("bucket_mb", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.static_graph and self.find_unused_parameters:
            raise ValueError("static_graph and find_unused_parameters contradict each other: leave out one of the two")
        if self.replicas > 1 and self.kind != "sharded":
            raise ValueError(f"replicas is {self.replicas}, which is for kind 'sharded': with 'data' all are replicas")
        if self.kind != "data" or self.tensor > 1 or self.pipeline > 1:
            chosen = [name for name in _OF_REPLICAS if getattr(self, name) != _DEFAULTS[name]]
            if chosen:
                raise ValueError(
                    f"{', '.join(chosen)}: of whole replicas alone; use kind 'data' with tensor 1 and pipeline 1, "
                    "or leave it out"
                )

    def shape(self, world_size: int) -> Shape:
        """How `world_size` processes stand; raises ValueError where they cannot, naming what would work."""
        step = self.tensor * self.pipeline * self.replicas
        if world_size % step:
            lower = world_size // step * step
            better = f"{lower} or {lower + step}" if lower else str(step)
            raise ValueError(
                f"{world_size} processes cannot be arranged as tensor {self.tensor} x pipeline {self.pipeline} "
                f"x replicas {self.replicas}: use {better} of them"
            )
        data = world_size // (self.tensor * self.pipeline)
        replicas = data if self.kind == "data" else self.replicas
        return Shape(self.pipeline, replicas, data // replicas, self.tensor)

    def backend(self, device: str) -> str:
        """The backend of torch.distributed: NCCL between GPUs, Gloo between CPUs, which every process has besides."""
        return "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Plan)}
_OF_REPLICAS = ("bucket_mb", "overlap", "static_graph", "find_unused_parameters", "compression", "compression_rank")


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options from which `read_plan` makes a Plan."""
    group = parser.add_argument_group("many processes for one model (docs/parallel.md)")
    group.add_argument("--parallel", choices=typing.get_args(Kind), default=_DEFAULTS["kind"])
    for name in ("tensor", "pipeline", "replicas", "compression_rank"):
        group.add_argument(_option(name), type=int, default=_DEFAULTS[name], metavar="N")
    for name in ("bucket_mb", "timeout_s"):
        group.add_argument(_option(name), type=float, default=_DEFAULTS[name], metavar="X")
    group.add_argument("--overlap", action=argparse.BooleanOptionalAction, default=_DEFAULTS["overlap"])
    group.add_argument("--static-graph", action="store_true")
    group.add_argument("--find-unused-parameters", action="store_true")
    group.add_argument("--compression", choices=typing.get_args(Compression), default=_DEFAULTS["compression"])


def read_plan(arguments: argparse.Namespace) -> Plan:
    """Raises ValueError on a mix that cannot be."""
    chosen = {field.name: getattr(arguments, field.name) for field in fields(Plan) if field.name != "kind"}
    return Plan(kind=arguments.parallel, **chosen)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
