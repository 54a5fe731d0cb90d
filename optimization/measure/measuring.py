"""Measuring: from models to their Measurements, all in one interleaved run with the machine to themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from optimization.measure.batches import as_served, parity_lengths
from optimization.measure.cost import measure_energy, price
from optimization.measure.exclusive import WAIT_S, exclusive
from optimization.measure.footprint import measure_footprint
from optimization.measure.host import LoadWatch, describe_host
from optimization.measure.latency import BATCH_SIZES, measure_latency
from optimization.measure.measurement import Measurement, Paired
from optimization.measure.paired import class_deltas, flip_rate, paired_difference
from optimization.measure.parity import parity
from optimization.runners.contract import Runner
from optimization.runners.open import open_runner
from training.artifact import Artifact
from training.encoding import Array
from training.evaluation.scores import check_logits, clopper_pearson, predict_in_batches
from training.task import Split, SplitName, Task

# Quantization flips a few answers in a thousand: fewer rows would judge it by chance.
PARITY_ROWS = 512


@dataclass(frozen=True)
class Setting:
    """How things are measured: CPU threads of each Runner, batch sizes, interleaved rounds of so many calls, fresh
    processes for the footprint, what the machine costs an hour (any currency), and how long to wait for it to be free.
    """

    threads: int = 1
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    rounds: int = 12
    calls: int = 15
    repeats: int = 3
    cost_per_hour: float | None = None
    wait_s: float = WAIT_S

    def __post_init__(self) -> None:
        if self.cost_per_hour is not None and not self.cost_per_hour > 0:
            raise ValueError(f"the cost per hour is {self.cost_per_hour}: give a rate above 0, or none")
        if min(self.threads, self.rounds, self.calls, self.repeats, *self.batch_sizes, len(self.batch_sizes)) < 1:
            raise ValueError(f"{self}: threads, batch sizes, rounds, calls and repeats are 1 or more")


@dataclass(frozen=True)
class Subject:
    """What is measured: an Artifact by the name of its Version, and the Artifact that it was made from.

    `runner` is one of it that is open already, on as many threads as the Setting says.
    """

    version: str
    artifact: Artifact
    parent: Artifact | None = None
    parent_version: str = ""
    runner: Runner | None = None


@dataclass(frozen=True)
class _Answers:
    logits_NC: Array
    predicted_N: Array
    correct_N: "np.typing.NDArray[np.bool_]"


def measure(subjects: Mapping[str, Subject], task: Task, split: SplitName, setting: Setting) -> dict[str, Measurement]:
    """A Measurement of each subject by name, on the rows of `split`: "gate" while choosing, "report" to publish.

    Latency and footprint are read while no other measurement runs on this machine. Raises BusyError where it is not
    free in time, ValueError where a model's answers are broken.
    """
    rows = task.splits[split]
    runners = {
        name: subject.runner or open_runner(subject.artifact, setting.threads) for name, subject in subjects.items()
    }
    answers = {name: _answer(runner, rows) for name, runner in runners.items()}
    paired = {
        name: _pair(subject, runners[name], answers[name], task, rows, setting.threads)
        for name, subject in subjects.items()
    }
    with exclusive(f"measuring {', '.join(subjects)}", setting.wait_s):
        watch = LoadWatch()
        latency = measure_latency(
            runners,
            lambda size: as_served(task.encoding, rows.inputs[np.arange(size) % len(rows)]),
            setting.batch_sizes,
            setting.rounds,
            setting.calls,
        )
        load = watch.read()
        batch = as_served(task.encoding, rows.inputs[:1])
        energy = {name: measure_energy(runner, batch) for name, runner in runners.items()}
        footprints = {
            name: measure_footprint(subject.artifact.folder, setting.threads, setting.batch_sizes, setting.repeats)
            for name, subject in subjects.items()
        }
    first = setting.batch_sizes[0]
    return {
        name: Measurement(
            version=subject.version,
            digest=subject.artifact.digest,
            variant=subject.artifact.manifest.variant,
            device=runners[name].device,
            precision=runners[name].precision,
            split=split,
            data_hash=task.data_hash,
            rows=len(rows),
            accuracy=float(answers[name].correct_N.mean()),
            accuracy_interval=clopper_pearson(int(answers[name].correct_N.sum()), len(rows)),
            latency=latency[name],
            footprint=footprints[name],
            cost=price(latency[name].at(first).rows_per_s, setting.cost_per_hour, first, energy[name]),
            paired=paired[name],
            host=describe_host(setting.threads),
            load=load,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for name, subject in subjects.items()
    }


def _answer(runner: Runner, rows: Split) -> _Answers:
    logits_NC = predict_in_batches(runner, rows.inputs)
    check_logits(logits_NC, rows.labels)
    predicted_N = logits_NC.argmax(axis=1)
    return _Answers(logits_NC, predicted_N, predicted_N == rows.labels)


def _pair(subject: Subject, runner: Runner, answers: _Answers, task: Task, rows: Split, threads: int) -> Paired | None:
    if subject.parent is None:
        return None
    parent = open_runner(subject.parent, threads)
    before = _answer(parent, rows)
    inputs = rows.inputs[:PARITY_ROWS]
    return Paired(
        reference=subject.parent_version,
        difference=paired_difference(before.correct_N, answers.correct_N),
        flip_rate=flip_rate(before.predicted_N, answers.predicted_N),
        parity=parity(parent, runner, inputs, lengths=parity_lengths(task.encoding, inputs)),
        classes=class_deltas(rows.labels, before.predicted_N, answers.predicted_N, task.encoding.labels),
    )
