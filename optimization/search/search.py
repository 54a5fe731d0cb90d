"""search(): from a registered teacher to the front of what can be made of it, every point of it servable."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimization.distill.teacher import TeacherPlace
from optimization.measure.host import describe_host
from optimization.measure.measurement import Measurement, log_measurement
from optimization.measure.measuring import Setting, Subject, measure
from optimization.search.book import Book
from optimization.search.choice import Candidate, Wish, choose
from optimization.search.making import Workshop, load_made
from optimization.search.page import Findings, search_page
from optimization.search.pipeline import Pipeline
from optimization.search.publish import Lineage, Paired, publish_candidate, publish_pair
from optimization.search.searching import TEACHER, Climb, Rungs, Terminal, candidates_of, climb, numbered
from optimization.search.space import Space
from training.artifact import load_artifact
from training.cluster import has_gpus
from training.lineage import task_params
from training.recipe import Recipe, flatten
from training.registry import Registry, RegistryError, Run, Version
from training.task import Source, Task, load_task
from training.tuning.cluster import join, plan_trials
from training.tuning.preflight import Demand
from training.tuning.queue import Room

CANDIDATE = "candidate"


@dataclass(frozen=True)
class Request:
    """What a user asks for. `teacher_recipe` is how a teacher learns again, None where it is not known;
    `student_recipe` names that of a student whose pipeline names none. `threads` are of each training, and those that
    the deployment will give a model.
    """

    name: str
    version: Version
    space: Space
    rungs: Rungs
    wish: Wish
    teacher_recipe: Recipe | None
    student_recipe: str
    source: Source
    threads: int = 1
    at_once: int | None = None
    storage: Path = Path(".tandem/search")
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name:
            raise ValueError(f"the name {self.name!r} cannot be a folder's: use letters, digits, - and _")


@dataclass(frozen=True)
class Outcome:
    """`found` is None where Ctrl-C ended the search; the same request then goes on. `release` is the chosen one's."""

    run_id: str
    found: Findings | None = None
    release: Version | None = None
    passed: bool = False


def search(request: Request, registry: Registry, cache_dir: Path) -> Outcome:
    """Carry out the pipelines of `request.space`, or go on with it, and publish what was found.

    Raises ValueError, before anything is written, on a request that cannot be carried out.
    """
    version = request.version
    teacher = load_artifact(registry.fetch(version, cache_dir))
    params = task_params(version)
    task = load_task(teacher.manifest.task, request.source, params)
    if task.data_hash != version.tags.get("tandem.data_hash"):
        raise ValueError(
            f"{version.reference} was trained on other data than {request.source.location or teacher.manifest.task} "
            "holds: pass the --data-dir that it was trained with"
        )
    pipelines = numbered(request.space.pipelines())
    book = Book((request.storage / request.name).resolve())
    with book.locked():
        if request.fresh:
            book.clear()
        identity = _identity(request, task)
        book.require_same(identity)
        shop = Workshop(
            TeacherPlace(teacher.folder, version.reference, registry.tracking_uri),
            request.teacher_recipe,
            request.student_recipe,
            request.source,
            tuple(sorted(params.items())),
            task.data_hash,
            book.folder,
            request.threads,
        )
        book.begin(identity)
        run = _run(request, task, registry, book)
        try:
            began = time.monotonic()
            stand = climb(
                pipelines,
                request.rungs,
                shop,
                task,
                request.wish,
                book,
                lambda many: _room(request, many),
                lambda rung, many: Terminal(f"{rung}/{len(request.rungs.shares)}", pipelines, many),
            )
            outcome = Outcome(run.run_id)
            if stand.complete:
                outcome = _conclude(request, stand, pipelines, task, registry, run, book, began)
        except BaseException:
            # A server that has gone must not hide what went wrong before it.
            with contextlib.suppress(RegistryError):
                run.end("FAILED")
            raise
        run.end("FINISHED" if stand.complete else "KILLED")
    return outcome


def _identity(request: Request, task: Task) -> dict[str, Any]:
    """What makes two requests the same search. Other limits choose anew among what was found."""
    recipe = {} if request.teacher_recipe is None else flatten(request.teacher_recipe)
    return {
        "teacher": request.version.digest,
        "recipe": {name: str(value) for name, value in recipe.items()},
        "student": request.student_recipe,
        "space": request.space.to_json(),
        "rungs": dataclasses.asdict(request.rungs),
        "threads": request.threads,
        "data": task.data_hash,
        "objective": request.wish.objective,  # by which the rungs sort
    }


def _room(request: Request, pipelines: int) -> Room:
    """Join the cluster and see how many pipelines fit into what it has free: replicas keep what they hold."""
    join()
    gpus = float(has_gpus())
    plan = plan_trials(Demand(1, float(request.threads), gpus), pipelines, request.at_once, False)
    if plan.note:
        print(plan.note, flush=True)
    print(f"search: {pipelines} pipelines, {plan.trials_at_once} at once", flush=True)
    return Room(float(request.threads), gpus, plan.trials_at_once, gpus)


def _run(request: Request, task: Task, registry: Registry, book: Book) -> Run:
    if book.run_id:
        run = registry.run(book.run_id)
        run.reopen()
        return run
    tags = {
        "tandem.teacher": request.version.reference,
        "tandem.data_hash": task.data_hash,
        "tandem.search": request.name,
    }
    run = registry.start_run(task.name, f"search {request.version.reference}", tags)
    book.set_run_id(run.run_id)
    run.log_params({"threads": request.threads, "rungs": request.rungs.shares, "keep": request.rungs.keep})
    run.log_text(json.dumps(request.space.to_json(), indent=1), "space.json")
    return run


def _conclude(
    request: Request,
    stand: Climb,
    pipelines: Mapping[int, Pipeline],
    task: Task,
    registry: Registry,
    run: Run,
    book: Book,
    began: float,
) -> Outcome:
    """Choose, measure the front by itself, publish, and write the page."""
    assert stand.times is not None, "a search that came to its end was measured"
    candidates = candidates_of(stand, pipelines, task, request.threads)
    teacher = next((one for one in candidates if one.pipeline == TEACHER), None)
    if teacher is None:
        number = next(number for number, one in pipelines.items() if one == TEACHER)
        raise ValueError(f"the teacher itself cannot be exported: {stand.failed[number]}")
    choice = choose(candidates, teacher, request.wish)
    found = Findings(
        title=f"What can be made of {request.version.reference}",
        wish=request.wish,
        teacher=teacher,
        candidates=sorted(candidates, key=lambda one: -one.made.accuracy),
        choice=choice,
        pipelines=pipelines,
        failed=stand.failed,
        dropped=stand.dropped,
        host=describe_host(request.threads),
        load=stand.times.load,
        seconds=0.0,
    )
    print(f"search: {choice.reason}", flush=True)
    print(f"search: measuring the {len(found.front)} points of the front, each by itself", flush=True)
    versions = _publish(request, found, task, registry, run)
    alone = _measure_front(request, found, versions, task, registry)
    paired = _pair_front(request, found, versions, task, registry, run)
    found = dataclasses.replace(
        found,
        versions={number: version.reference for number, version in versions.items()},
        releases={number: one.release.reference for number, one in paired.items()},
        alone=alone,
        report=_report(request, found, versions, task),
    )
    found = dataclasses.replace(found, seconds=_seconds(book, time.monotonic() - began))
    run.log_text(json.dumps(found.to_json(), indent=1), "search.json")
    page = search_page(found)
    run.log_text(page, "search.html")
    (book.folder / "search.html").write_text(page)
    chosen = paired.get(choice.number) if choice.number is not None else None
    if chosen is None:
        return Outcome(run.run_id, found)
    if chosen.passed:
        registry.promote(chosen.release.name, chosen.release.number, CANDIDATE)
    return Outcome(run.run_id, found, chosen.release, chosen.passed)


def _seconds(book: Book, seconds: float) -> float:
    """Of all commands that worked on it together."""
    path = book.folder / "seconds"
    before = float(path.read_text()) if path.exists() else 0.0
    path.write_text(str(before + seconds))
    return before + seconds


def _publish(request: Request, found: Findings, task: Task, registry: Registry, run: Run) -> dict[int, Version]:
    print(f"search: registering {len(found.candidates)} candidates", flush=True)
    lineage = _lineage(request)
    front = {one.number for one in found.front}
    return {
        one.number: publish_candidate(one, found.teacher, one.number in front, task, lineage, registry, run)
        for one in found.candidates
    }


def _lineage(request: Request) -> Lineage:
    version = request.version
    recipe = version.tags.get("tandem.recipe", "")
    return Lineage(request.name, version, recipe, task_params(version), request.source)


def _pair_front(
    request: Request, found: Findings, versions: Mapping[int, Version], task: Task, registry: Registry, run: Run
) -> dict[int, Paired]:
    """A Release for each of those that are to be served."""
    print("search: calibrating a Release for each of them", flush=True)
    lineage, teacher = _lineage(request), found.teacher
    return {
        one.number: publish_pair(
            one, versions[one.number], teacher, versions[teacher.number], task, request.threads, lineage, registry, run
        )
        for one in found.servable
        if one is not teacher
    }


def _measure_front(
    request: Request, found: Findings, versions: Mapping[int, Version], task: Task, registry: Registry
) -> dict[int, Measurement]:
    """Full Measurements, with what each takes in a process of its own, logged with their Versions."""
    several = {found.teacher.number: found.teacher} | {one.number: one for one in found.servable}
    subjects = {str(number): _subject(one, found.teacher, versions) for number, one in several.items()}
    measured = measure(subjects, task, "gate", Setting(threads=request.threads, rounds=6, calls=5, repeats=2))
    for number, one in measured.items():
        log_measurement(registry, versions[int(number)], one)
    return {int(number): one for number, one in measured.items()}


def _report(request: Request, found: Findings, versions: Mapping[int, Version], task: Task) -> dict[str, Measurement]:
    chosen = found.chosen
    if chosen is None:
        return {}
    subjects = {"teacher": _subject(found.teacher, found.teacher, versions)}
    if chosen is not found.teacher:
        subjects["chosen"] = _subject(chosen, found.teacher, versions)
    return measure(subjects, task, "report", Setting(threads=request.threads, repeats=1))


def _subject(one: Candidate, teacher: Candidate, versions: Mapping[int, Version]) -> Subject:
    """A candidate to be measured against the teacher, or the teacher itself."""
    graph, reference = load_made(one.made)[-1], versions[one.number].reference
    if one is teacher:
        return Subject(reference, graph)
    return Subject(reference, graph, load_made(teacher.made)[-1], versions[teacher.number].reference)
