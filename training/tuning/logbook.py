"""Logbook: what is noted and shown of each trial as it happens: ledger, MLflow run, a line on the terminal."""

import math
from collections.abc import Mapping
from dataclasses import replace

from training.registry import Registry, Run
from training.tuning.ledger import Ledger, Trial, ranked
from training.tuning.space import Point, settings
from training.tuning.terminal import Terminal
from training.tuning.trial import Report


class Logbook:
    """An Observer of a search. Each trial is a run below `parent`; the ledger is written after MLflow heard of it, so
    what a kill cuts off is told again rather than never.

    `logs_epochs` is False where the workers of a trial log their epochs themselves.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, experiment: str, parent: Run, total: int, logs_epochs: bool
    ) -> None:
        self._ledger, self._registry, self._experiment, self._parent = ledger, registry, experiment, parent
        self._total, self._logs_epochs = total, logs_epochs
        self.trials = ledger.trials()
        self._under_way: set[int] = set()
        self._stopped: set[int] = set()
        self._terminal = Terminal()

    def started(self, number: int, point: Point) -> None:
        """Also after a pause, of which nothing is said."""
        if number in self._under_way:
            return
        self._under_way.add(number)
        if number in self.trials:
            self._run(number).reopen()
            return
        run = self._registry.start_run(self._experiment, f"trial {number}", {"tandem.trial": str(number)}, self._parent)
        run.log_params(point)
        self._note(Trial(number, dict(point), run.run_id))

    def reported(self, number: int, report: Report, stopped: bool) -> None:
        trial, run, score = self.trials[number], self._run(number), report.score
        if stopped and score.epoch < report.last_epoch:
            self._stopped.add(number)
        if report.exploit:
            exploit = report.exploit
            trial = trial.exploited(exploit)
            run.set_tags(
                {
                    "tandem.exploited_from": f"trial {exploit.source} after epoch {exploit.epoch}",
                    "tandem.exploited_digest": exploit.digest,
                    "tandem.settings": " ".join(settings(exploit.point)),
                }
            )
            self._say(number, f"took the weights of trial {exploit.source} after epoch {exploit.epoch}", exploit.point)
        if score.epoch <= trial.epoch:  # a trial that goes on after a kill may repeat what was noted
            return
        figures = _numbers(trial.point) if score.digest else {}
        if self._logs_epochs:
            figures |= {"train_loss": score.train_loss, "val_loss": score.val_loss, "val_accuracy": score.val_accuracy}
        if figures:
            run.log_metrics(figures, step=score.epoch)
        self._note(trial.scored(score))
        self._terminal.now(self._standing())

    def ended(self, number: int) -> None:
        stopped = number in self._stopped
        trial = replace(self.trials[number], status="stopped" if stopped else "finished")
        self._close(trial, "FINISHED")
        self._say(number, f"{trial.status} after epoch {trial.epoch}, best {trial.accuracy:.2%}", trial.point)

    def failed(self, number: int, error: str) -> None:
        trial = replace(self.trials[number], status="failed", error=error)
        self._run(number).set_tags({"tandem.error": error[:4000]})
        self._close(trial, "FAILED")
        self._say(number, f"failed: {error}", trial.point)

    def close(self) -> None:
        """End the runs of trials that are not over; they are reopened where the sweep goes on."""
        self._terminal.close()
        for number in self._under_way:
            if self.trials[number].status == "running":
                self._run(number).end("KILLED")

    def _close(self, trial: Trial, status: str) -> None:
        run = self._run(trial.number)
        run.set_tags({"tandem.status": trial.status})
        if not math.isnan(trial.accuracy):
            run.log_metrics({"best_val_accuracy": trial.accuracy})
        run.end(status)
        self._note(trial)
        best = best_trial(self.trials)
        if best:
            self._parent.log_metrics({"best_val_accuracy": best.accuracy}, step=self._over)

    def _note(self, trial: Trial) -> None:
        self._ledger.save(trial)
        self.trials[trial.number] = trial

    def _run(self, number: int) -> Run:
        return self._registry.run(self.trials[number].run_id)

    @property
    def _over(self) -> int:
        return sum(trial.status != "running" for trial in self.trials.values())

    def _say(self, number: int, what: str, point: Point) -> None:
        best = best_trial(self.trials)
        top = f", best so far {best.accuracy:.2%} (trial {best.number})" if best else ""
        self._terminal.line(f"trial {number:>3}  {what}  {brief(point)}  [{self._over}/{self._total} over{top}]")

    def _standing(self) -> str:
        running = [self.trials[number] for number in sorted(self._under_way) if self.trials[number].status == "running"]
        each = (f"trial {t.number} epoch {t.epoch}: {t.scores[-1].val_accuracy:.2%}" for t in running if t.scores)
        return f"{self._over}/{self._total} over; {', '.join(each)}"


def best_trial(trials: Mapping[int, Trial]) -> Trial | None:
    """The first by rank of those that reached anything; None before."""
    return next((trial for trial in ranked(trials.values()) if trial.scores and trial.status != "failed"), None)


def brief(point: Point) -> str:
    """For a person to read: floats to three digits."""
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()
    )


def _numbers(point: Point) -> dict[str, float]:
    """What a population changes on the way, as curves."""
    return {f"point/{field}": float(value) for field, value in point.items() if isinstance(value, int | float)}
