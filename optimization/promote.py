"""`python -m optimization.promote MODEL.endpoint@candidate`: a Release against the champion; it takes its place if it
passes. `--rollback` brings the champion before it back.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from optimization.challenge import Outcome, Terms, challenge
from optimization.challenge_report import challenge_report, challenge_table, draw_class_deltas
from optimization.contender import Contender, fetch_contender, teacher_alone
from training.champion import crown, roll_back, standing
from training.lineage import task_params
from training.options import absolute_path, add_source_arguments, read_source
from training.registry import Registry, Version
from training.task import Source, load_task

PROMOTION_TAG = "tandem.promotion"
TEACHER = "teacher"


@dataclass(frozen=True)
class Promotion:
    """What became of a challenge. `champion` is the number of the Version that serves after it."""

    challenger: Version
    outcome: Outcome
    run_id: str | None
    champion: int | None


def promote(
    registry: Registry,
    challenger: Version,
    against: str,
    terms: Terms,
    locate: Callable[[Version], Source],
    cache_dir: Path,
    dry_run: bool = False,
) -> Promotion:
    """Judges `challenger`, tags it and logs the report; crowns it where it passes. `dry_run` changes nothing.

    `against` is an alias or number of the same endpoint, or "teacher": the challenger's own teacher alone. `locate`
    says where the data lies that a model was made from.
    """
    new = fetch_contender(registry, challenger, cache_dir)
    old = _opponent(registry, new, challenger.name, against, cache_dir)
    version = new.parts[-1].version
    task = load_task(new.parts[-1].artifact.manifest.task, locate(version), task_params(version))
    outcome = challenge(new, old, task, terms)
    if dry_run:
        return Promotion(challenger, outcome, None, standing(registry, challenger.name).champion)
    run_id = _log(registry, challenger, outcome, task.name)
    if outcome.verdict.passed:
        return Promotion(challenger, outcome, run_id, crown(registry, challenger.name, challenger.number).champion)
    return Promotion(challenger, outcome, run_id, standing(registry, challenger.name).champion)


def rollback(registry: Registry, name: str, cache_dir: Path) -> tuple[Version, int | None]:
    """The previous Release serves again; returns it and the number of the one that served until now.

    Raises ValueError where there is none, or where it cannot be fetched whole: it must be fit to serve.
    """
    before = standing(registry, name)
    if before.previous is not None:
        fetch_contender(registry, registry.resolve(f"{name}@{before.previous}"), cache_dir)
    after = roll_back(registry, name)
    return registry.resolve(f"{name}@{after.champion}"), after.previous


def _opponent(registry: Registry, new: Contender, name: str, against: str, cache_dir: Path) -> Contender:
    if against == TEACHER:
        return teacher_alone(new)
    if against == "champion" and standing(registry, name).champion is None:
        _say(f"{name} has no champion yet: its own teacher alone stands in for one")
        return teacher_alone(new)
    version = registry.resolve(f"{name}@{against}")
    if version.reference == new.reference:
        raise ValueError(f"{new.reference} is what it is to be compared with: --against another, or `teacher`")
    return fetch_contender(registry, version, cache_dir)


def _log(registry: Registry, challenger: Version, outcome: Outcome, experiment: str) -> str:
    verdict = "passed" if outcome.verdict.passed else "failed"
    tags = {"tandem.version": challenger.reference, PROMOTION_TAG: verdict}
    figures = {"classes": draw_class_deltas(outcome)}
    with registry.start_run(experiment, f"promote {challenger.reference}", tags) as run:
        run.log_metrics(outcome.metrics())
        run.log_text(json.dumps(outcome.to_json(), indent=2), "promotion.json")
        run.log_figures(figures)
        run.log_text(challenge_report(outcome, figures), "report.html")
    registry.tag(
        challenger,
        {
            PROMOTION_TAG: verdict,
            f"{PROMOTION_TAG}_against": outcome.champion.reference,
            f"{PROMOTION_TAG}_run": run.run_id,
        },
    )
    return run.run_id


def _say(what: str) -> None:
    print(f"promote: {what}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimization.promote",
        description="Compare a Release with the champion on the gate split and on this machine; crown it if it passes.",
    )
    parser.add_argument("reference", help="MODEL.endpoint@candidate or @NUMBER; with --rollback MODEL.endpoint")
    parser.add_argument(
        "--against", default="champion", metavar="ALIAS", help="another Release's alias or number, or `teacher`"
    )
    parser.add_argument("--rollback", action="store_true", help="make the previous Release the champion again")
    parser.add_argument("--dry-run", action="store_true", help="judge, and change nothing")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write the report there too")
    parser.add_argument("--margin", type=float, help="accuracy that may be lost, a fraction (default: the task's)")
    parser.add_argument("--max-flip-rate", type=float, default=Terms.max_flip_rate, help="default %(default)s")
    parser.add_argument("--max-slowdown", type=float, default=Terms.max_slowdown, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=Terms.threads, help="CPU threads of each model")
    parser.add_argument("--rows", type=int, default=Terms.timed_rows, help="rows that are timed")
    parser.add_argument("--rounds", type=int, default=Terms.rounds, help="interleaved rounds over them")
    parser.add_argument("--wait-s", type=float, default=Terms.wait_s, help="for the machine to be free")
    parser.add_argument("--cache-dir", type=absolute_path, default=".tandem/cache", help="where Versions are kept")
    add_source_arguments(parser)
    return parser


def _roll_back(registry: Registry, arguments: argparse.Namespace) -> None:
    name, at, _ = arguments.reference.partition("@")
    if at:
        raise ValueError(f"{arguments.reference!r}: a rollback takes the endpoint's name alone, {name}")
    if arguments.dry_run:
        print(f"{name}: {standing(registry, name)}; nothing was changed")
        return
    version, before = rollback(registry, name, arguments.cache_dir)
    print(
        f"{version.reference} is the champion again, {name}@{before} is previous; servers take it up when deployed anew"
    )


def _promote(registry: Registry, arguments: argparse.Namespace) -> None:
    challenger = registry.resolve(arguments.reference)
    if arguments.against == "champion" and standing(registry, challenger.name).champion == challenger.number:
        print(f"{challenger.reference} is the champion already; nothing was changed")
        return
    terms = Terms(
        margin=arguments.margin,
        max_flip_rate=arguments.max_flip_rate,
        max_slowdown=arguments.max_slowdown,
        timed_rows=arguments.rows,
        rounds=arguments.rounds,
        threads=arguments.threads,
        wait_s=arguments.wait_s,
    )

    def locate(version: Version) -> Source:
        return read_source(arguments, arguments.data_dir or version.tags.get("tandem.data_dir") or None)

    done = promote(
        registry, challenger, arguments.against, terms, locate, arguments.cache_dir, dry_run=arguments.dry_run
    )
    outcome = done.outcome
    if arguments.report is not None:
        arguments.report.write_text(challenge_report(outcome, {"classes": draw_class_deltas(outcome)}))
    Console().print(challenge_table(outcome))
    for check in outcome.verdict.checks:
        print(f"  {'passed' if check.passed else 'FAILED'}  {check.name}: {check.sentence}")
    print(f"  load: {outcome.load}")
    said = "nothing was changed" if done.run_id is None else f"report.html is in MLflow's run {done.run_id}"
    if not outcome.verdict.passed:
        sys.exit(f"{challenger.reference} did not pass; the champion stays ({said})")
    print(f"{challenger.reference} passed{'' if arguments.dry_run else ' and is the champion'}; {said}")


def main() -> None:
    arguments = _parser().parse_args()
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        (_roll_back if arguments.rollback else _promote)(Registry(), arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"optimization.promote: {error}")


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("optimization.promote").main()
