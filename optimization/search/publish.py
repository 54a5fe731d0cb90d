"""Publish: what a search found, in MLflow. Every candidate is a Version, every point of the front a Release too.

Nothing is published twice: what is there already, by its digest, is taken as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from optimization.gate import Verdict, gate_student
from optimization.measure.parity import Parity, parity
from optimization.pairing import Pairing, pair_up
from optimization.release import endpoint_name, publish_release
from optimization.runners.open import open_runner
from optimization.search.choice import Candidate
from optimization.search.making import gate_logits, load_made
from optimization.variants import QUANTIZATION_PARITY_ROWS
from training.artifact import Artifact
from training.lineage import version_tags
from training.registry import Registry, Run, Version
from training.task import Source, Task

SEARCH_TAG = "tandem.search"


@dataclass(frozen=True)
class Lineage:
    """Where a search's Versions come from: the teacher that it began with, its recipe, the data, the search's name."""

    search: str
    teacher: Version
    recipe: str
    task_params: Mapping[str, object]
    source: Source


@dataclass(frozen=True)
class Paired:
    """A Version of the front as the student of a Release, and what both were judged by."""

    version: Version
    release: Version
    pairing: Pairing
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return self.verdict.passed and self.pairing.verdict.passed


def publish_candidate(
    one: Candidate, teacher: Candidate, on_front: bool, task: Task, lineage: Lineage, registry: Registry, parent: Run
) -> Version:
    """Its Artifacts as Versions, in a run of its own below the search's; returns that of the servable one."""
    artifacts = [artifact for artifact in load_made(one.made) if artifact.digest != lineage.teacher.digest]
    found = registry.find(task.name, artifacts[-1].digest)
    if found is not None:
        return found
    tags = {SEARCH_TAG: lineage.search, "tandem.teacher": lineage.teacher.reference}
    with registry.start_run(task.name, one.pipeline.label, tags, parent) as run:
        run.log_params({"pipeline": json.dumps(one.pipeline.to_json()), "number": one.number})
        run.log_metrics(figures_of(one, teacher))
        # What it was made from first, so that a Version's parent is in the registry before it.
        for artifact in artifacts[:-1]:
            if registry.find(task.name, artifact.digest) is None:
                registry.publish(task.name, artifact.folder, run, _tags(artifact, one, teacher, task, lineage))
        tags = _tags(artifacts[-1], one, teacher, task, lineage)
        return registry.publish(task.name, artifacts[-1].folder, run, tags | {"tandem.front": str(on_front).lower()})


def figures_of(one: Candidate, teacher: Candidate) -> dict[str, float]:
    """What was measured of a candidate, flat, by the names under which it is logged."""
    found = {
        "gate_accuracy": one.made.accuracy,
        "size_bytes": float(one.made.size_bytes),
        "rows_per_s": one.rows_per_s,
        "speedup": one.speedup_over(teacher).ratio,
        "seconds": one.made.seconds,
    }
    for batch in one.latency.batches:
        found |= {f"batch{batch.batch_size}_p50_ms": batch.p50_ms, f"batch{batch.batch_size}_p95_ms": batch.p95_ms}
    return found


def _tags(artifact: Artifact, one: Candidate, teacher: Candidate, task: Task, lineage: Lineage) -> dict[str, str]:
    tags = version_tags(lineage.recipe, dict(lineage.task_params), lineage.source, task, artifact) | {
        "tandem.teacher_version": lineage.teacher.reference,
        "tandem.pipeline": json.dumps(one.pipeline.to_json()),
        SEARCH_TAG: lineage.search,
    }
    if artifact.digest == one.made.digest:
        tags |= {f"tandem.{name}": f"{value:.6g}" for name, value in figures_of(one, teacher).items()}
    return tags


def publish_pair(
    one: Candidate,
    version: Version,
    teacher: Candidate,
    teacher_version: Version,
    task: Task,
    threads: int,
    lineage: Lineage,
    registry: Registry,
    run: Run,
) -> Paired:
    """The Release in which the candidate is the student of the teacher's float graph, calibrated and judged."""
    graphs = [load_made(candidate.made)[-1] for candidate in (teacher, one)]
    logits = [gate_logits(graph, task, threads) for graph in graphs]
    runners = [open_runner(graph, threads) for graph in graphs]
    pairing = pair_up(runners[0], runners[1], task, logits[0], logits[1])
    verdict = gate_student(
        task.splits["gate"].labels,
        logits[0],
        logits[1],
        margin=task.margin,
        size_bytes=one.made.size_bytes,
        reference_size_bytes=teacher.made.size_bytes,
        parent_parity=_parity(one, task, threads),
    )
    expected = pairing.expected(one.latency.at(1).p50_ms, teacher.latency.at(1).p50_ms)
    release = pairing.release(teacher_version, version, expected)
    there = registry.find(endpoint_name(task.name), release.digest)
    passed = verdict.passed and pairing.verdict.passed
    tags = {
        "tandem.teacher_version": lineage.teacher.reference,
        "tandem.gate": "passed" if passed else "failed",
        "tandem.guarantee": release.guarantee.kind,
        SEARCH_TAG: lineage.search,
    }
    return Paired(version, there or publish_release(registry, release, run, None, tags), pairing, verdict)


def _parity(one: Candidate, task: Task, threads: int) -> Parity:
    """Of the servable graph with the Artifact that it was made of."""
    *before, graph = load_made(one.made)
    rows = task.splits["gate"].inputs[:QUANTIZATION_PARITY_ROWS]
    if not before:
        return Parity(0.0, 0, len(rows))
    return parity(open_runner(before[-1], threads), open_runner(graph, threads), rows, (32,))
