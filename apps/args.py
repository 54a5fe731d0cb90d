"""AppArgs: what `args:` in serve_config.yaml may say about the application."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from apps.access.check import AccessArgs
from apps.observe.request_log import RequestLogArgs
from apps.observe.tracing import TraceArgs
from optimization.runners.names import Backend


class ReleaseArgs(BaseModel):
    """One Release in service: an alias ("champion"), a number ("3") or both with a name ("digits.endpoint@champion").

    Requests are split between Releases in proportion to `weight`.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    ref: str = Field(default="champion", pattern=r"^([\w.\-]+@)?[\w.\-]+$")
    weight: float = Field(default=1.0, gt=0)


class RunnerArgs(BaseModel):
    """What computes one of a model's two networks; docs/compression-runners.md lists the backends.

    "auto" is the CPU runtime of the Artifact's format. A replica whose machine lacks what `backend` needs does not
    start, unless `allow_fallback` lets it run on the CPU instead.
    """

    model_config = ConfigDict(extra="forbid")

    backend: Backend | Literal["auto"] = "auto"
    allow_fallback: bool = False


class RunnersArgs(BaseModel):
    """For all Releases of a model."""

    model_config = ConfigDict(extra="forbid")

    teacher: RunnerArgs = Field(default_factory=RunnerArgs)
    student: RunnerArgs = Field(default_factory=RunnerArgs)


class ModelArgs(BaseModel):
    """One model of the application.

    `deadline_ms` is the objective: after it, less `reserve_ms`, the teacher is waited for no longer.
    `insist_timeout_ms` bounds requests that take no fallback and give no deadline of their own, and the wait for a
    student. Batches are padded up to `batch_sizes`, where the runtime likes those. `batching: ray` leaves batches to
    Serve's timer, for comparison. Up to `hedge_share` of the calls to a teacher are made a second time where the first
    is slow.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(default="digits", pattern=r"^[\w.\-]+$")
    releases: list[ReleaseArgs] = Field(default_factory=lambda: [ReleaseArgs()], min_length=1, max_length=2)
    deadline_ms: float = Field(default=50.0, gt=0)
    reserve_ms: float = Field(default=10.0, ge=0)
    insist_timeout_ms: float = Field(default=5_000.0, gt=0)
    student_placement: Literal["ingress", "deployment"] = "ingress"
    max_rows: int = Field(default=256, ge=1)
    max_batch_rows: int = Field(default=32, ge=1)
    max_queue_rows: int = Field(default=512, ge=1)
    threads: int = Field(default=1, ge=1)
    runners: RunnersArgs = Field(default_factory=RunnersArgs)
    batch_sizes: list[int] = Field(default_factory=list)
    batching: Literal["tandem", "ray"] = "tandem"
    hedge_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.reserve_ms >= self.deadline_ms:
            raise ValueError(
                f"reserve_ms is {self.reserve_ms} and deadline_ms {self.deadline_ms}: "
                "the reserve must be smaller, or the teacher is never asked"
            )
        sizes = self.batch_sizes
        if sizes and (sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_rows):
            raise ValueError(
                f"batch_sizes are {sizes}: let them rise from at least 1 to max_batch_rows, {self.max_batch_rows}"
            )
        backend = self.runners.student.backend
        if self.student_placement == "ingress" and backend.startswith("aot-inductor"):
            raise ValueError(
                f"runners.student.backend is {backend}, which holds Python's lock while it computes, and with it the "
                "ingress that the student is placed in: set student_placement to deployment, or choose another backend"
            )
        if self.max_rows > self.max_queue_rows:
            raise ValueError(
                f"max_rows is {self.max_rows} and max_queue_rows {self.max_queue_rows}: "
                "a queue must hold at least one request of the largest size"
            )
        return self


class AppArgs(ModelArgs):
    """The first model's settings, further models with settings of their own, and what concerns the whole endpoint."""

    more_models: list[ModelArgs] = Field(default_factory=list)
    max_body_bytes: int = Field(default=8_000_000, ge=1_000)
    cache_dir: str = "~/.cache/tandem"
    access: AccessArgs | None = None
    access_log: RequestLogArgs | None = None
    trace: TraceArgs | None = None

    @property
    def models(self) -> tuple[ModelArgs, ...]:
        return (self, *self.more_models)

    def deployment_names(self, kind: Literal["Teacher", "Student"], model: ModelArgs, releases: int) -> list[str]:
        """What the deployments of this kind are called, one for each of a model's `releases` (1 or 2)."""
        of = "" if model is self else f"-{model.model}"
        return [f"{kind}{suffix}{of}" for suffix in ("", "B")[:releases]]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        names = [item.model for item in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"the models are {', '.join(names)}: serve each once, its Releases under `releases`")
        return self
