"""Comparison: the variants of one build side by side, measured in one run, with the pair that serves.

Accuracy here is of the report split, read for this alone; every choice was made on other splits. The Measurements from
which the times come are of the gate split, as `optimization.measure` would make them, for the Versions to be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from optimization.cascade.calibration import Calibration
from optimization.cascade.cost import expected_cost_ms
from optimization.cascade.rows import Rows, score_pair
from optimization.cascade.shift import Shift
from optimization.gate import Verdict
from optimization.measure.host import Host, Load
from optimization.measure.latency import speedup
from optimization.measure.measurement import Measurement
from optimization.measure.measuring import Setting, Subject, measure
from optimization.release import Expectation
from optimization.variants import Variant
from training.artifact import Artifact
from training.evaluation.scores import evaluate, predict_in_batches
from training.registry import Run
from training.task import Task

BATCH_SIZES = (1, 8)
# Fresh processes a variant for its memory and start-up: a build wants an idea of them, and takes long enough.
REPEATS = 1


@dataclass(frozen=True)
class VariantRow:
    """One variant. `speedup` is the teacher's latency over this one's, with its interval over rounds."""

    variant: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    size_bytes: int
    p50_ms: float
    p95_ms: float
    batch8_p50_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float


@dataclass(frozen=True)
class PairRow:
    """The tandem, on the report rows; the deferral with its exact 95 % interval.

    `mean_ms` an item is reckoned: the student's p50 plus deferral times the teacher's.
    """

    student: str
    accuracy: float
    deferral: float
    harm: float
    mean_ms: float
    deferral_interval: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """`measurements` are by variant, and name Artifacts by their digests: they were made before any was registered."""

    rows: tuple[VariantRow, ...]
    pair: PairRow
    report_rows: int
    host: Host
    load: Load
    measurements: Mapping[str, Measurement] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [asdict(row) for row in self.rows],
            "pair": asdict(self.pair),
            "report_rows": self.report_rows,
            "host": self.host.to_json(),
            "load": asdict(self.load),
        }

    def tags(self, variant: str) -> dict[str, str]:
        """A variant's figures as tags of its Version, to be seen in MLflow's list."""
        return {
            f"tandem.{name}": f"{getattr(row, name):.6g}"
            for row in self.rows
            if row.variant == variant
            for name in ("accuracy", "size_bytes", "p50_ms", "p95_ms", "speedup")
        }

    def log(
        self,
        run: Run,
        calibration: Calibration,
        verdicts: Mapping[str, Verdict],
        task: Task,
        expected: Expectation,
        shift: Shift,
    ) -> None:
        """Into the run: metrics, the JSON of all that is given, the plots and report.html."""
        from optimization.cascade.plots import draw_shift
        from optimization.plots import accuracy_latency_scatter, build_report, cascade_cost, cascade_curve

        for row in self.rows:
            figures = {key: value for key, value in asdict(row).items() if key != "variant"}
            run.log_metrics({f"{row.variant}/{key}": value for key, value in figures.items()})
        run.log_metrics({f"pair/{key}": getattr(self.pair, key) for key in ("accuracy", "deferral", "harm", "mean_ms")})
        run.log_text(json.dumps(self.to_json(), indent=2), "comparison.json")
        run.log_text(json.dumps(calibration.to_json(), indent=2), "calibration.json")
        run.log_text(json.dumps({key: v.to_json() for key, v in verdicts.items()}, indent=2), "verdicts.json")
        run.log_text(json.dumps(asdict(expected), indent=2), "expected.json")
        run.log_text(json.dumps(shift.to_json(), indent=2), "shift.json")
        shown = {
            "accuracy_latency": accuracy_latency_scatter(self.rows),
            "cascade": cascade_curve(calibration),
            "cost": cascade_cost(expected, self),
            "shift": draw_shift(shift),
        }
        run.log_figures(shown)
        run.log_text(build_report(task.name, self, calibration, verdicts, shown, expected, shift), "report.html")


def compare(
    variants: Mapping[str, Variant],
    student: str,
    calibration: Calibration,
    task: Task,
    threads: int,
    sources: Sequence[Artifact] = (),
) -> Comparison:
    """Measurements of all variants in one run, and their accuracy on the report split.

    A variant is compared with what it was made from, where that is another variant or one of `sources`.
    """
    report = task.splits["report"]
    subjects = _subjects(variants, sources)
    measured = measure(subjects, task, "gate", Setting(threads=threads, batch_sizes=BATCH_SIZES, repeats=REPEATS))
    latency = {name: found.latency for name, found in measured.items()}
    logits = {name: predict_in_batches(variant.runner, report.inputs) for name, variant in variants.items()}
    rows = []
    for name, variant in variants.items():
        scores = evaluate(logits[name], report.labels, task.encoding.labels)
        ratio = speedup(latency["teacher-fp32"], latency[name], 1)
        rows.append(
            VariantRow(
                variant=name,
                accuracy=scores.accuracy,
                accuracy_low=scores.interval[0],
                accuracy_high=scores.interval[1],
                size_bytes=variant.artifact.size_bytes,
                p50_ms=latency[name].at(1).p50_ms,
                p95_ms=latency[name].at(1).p95_ms,
                batch8_p50_ms=latency[name].at(8).p50_ms,
                speedup=ratio.ratio,
                speedup_low=ratio.lower,
                speedup_high=ratio.upper,
            )
        )
    scored = Rows.score(logits[student], logits["teacher-fp32"], report.labels, calibration.temperature)
    score = score_pair(scored, calibration.threshold)
    student_ms, teacher_ms = (latency[name].at(1).p50_ms for name in (student, "teacher-fp32"))
    pair = PairRow(
        student=student,
        accuracy=score.accuracy,
        deferral=score.deferral,
        harm=score.harm,
        mean_ms=expected_cost_ms(student_ms, teacher_ms, score.deferral),
        deferral_interval=score.deferral_interval,
    )
    any_of_them = measured[student]
    return Comparison(tuple(rows), pair, len(report), any_of_them.host, any_of_them.load, measured)


def _subjects(variants: Mapping[str, Variant], sources: Sequence[Artifact]) -> dict[str, Subject]:
    known = {made.digest: made for made in (*sources, *(variant.artifact for variant in variants.values()))}
    return {
        name: Subject(
            version=variant.artifact.digest,
            artifact=variant.artifact,
            parent=known.get(variant.artifact.manifest.parent or ""),
            parent_version=variant.artifact.manifest.parent or "",
            runner=variant.runner,
        )
        for name, variant in variants.items()
    }
