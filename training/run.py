"""Run: one MLflow run. With `training/registry.py`, which makes them, the one door to MLflow."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from training.checkpoint.store import SupersededError
from training.launch.job import Interrupted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient


class RegistryError(ValueError):
    """The registry cannot be reached, or holds no such thing, or something else than was published."""


class Run:
    """One MLflow run: what a training or a build logs while it works; raises RegistryError where that fails.

    As a context manager it ends as FINISHED, as KILLED when its block was asked to stop, or as FAILED when it raises;
    where its training goes on elsewhere it is left open, since the other one logs to it.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.end()
        if error is None or isinstance(error, SupersededError):
            return
        # A server that has gone must not hide what went wrong before it.
        with contextlib.suppress(Exception):
            self.end("KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED")

    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:500]) for key, value in params.items()]
        with asking(f"log parameters to run {self.run_id}"):
            for first in range(0, len(entries), 100):  # MLflow takes no more at once
                self._client.log_batch(self.run_id, params=entries[first : first + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        import time

        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        entries: Sequence[Metric] = [Metric(key, float(value), now_ms, step) for key, value in metrics.items()]
        with asking(f"log metrics to run {self.run_id}"):
            self._client.log_batch(self.run_id, metrics=entries)

    def steps_of(self, metric: str) -> set[int]:
        """At which steps `metric` was logged."""
        with asking(f"read {metric} of run {self.run_id}"):
            return {entry.step for entry in self._client.get_metric_history(self.run_id, metric)}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with asking(f"tag run {self.run_id}"):
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_figures(self, figures: Mapping[str, "Figure"]) -> None:
        with asking(f"log plots to run {self.run_id}"):
            for name, figure in figures.items():
                self._client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def log_files(self, paths: Sequence[Path]) -> None:
        with asking(f"log files to run {self.run_id}"):
            for path in paths:
                self._client.log_artifact(self.run_id, str(path))

    def log_text(self, text: str, name: str) -> None:
        with asking(f"log {name} to run {self.run_id}"):
            self._client.log_text(self.run_id, text, name)

    def end(self, status: str = "FINISHED") -> None:
        """`status` is FINISHED, KILLED or FAILED, as MLflow spells them."""
        with asking(f"end run {self.run_id}"):
            self._client.set_terminated(self.run_id, status)

    def reopen(self) -> None:
        """What a kill left open or an interrupt closed runs again."""
        with asking(f"go on with run {self.run_id}"):
            self._client.update_run(self.run_id, "RUNNING")


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """MLflow's errors as RegistryError, saying what was asked of it."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise RegistryError(f"cannot {what}: {error}") from error
