"""The overload benchmark's result: JSON, a page in Markdown and a figure an arm."""

import json
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from loadtests.overload import ARMS, CALM_LOAD, Arm, ArmResult, Round, Setting, as_json
from loadtests.report import machine, milliseconds
from loadtests.timeline import CALM_TOLERANCE, Window

PACKAGES = ("ray", "onnxruntime", "aiohttp", "numpy")
MIN_TEACHER_SHARE, MIN_FEWER_VIOLATIONS, MAX_CALM_AFTER_S = 0.8, 10.0, 5.0
INF = float("inf")
# Lies beside the result where that is kept.
ENDPOINT = "overload.yaml"


def write(
    folder: Path, setting: Setting, rounds: Sequence[Round], windows: dict[str, list[Window]], command: str
) -> None:
    """Write overload.json, overload.md and a figure of the newest round for each arm."""
    from loadtests.time_figures import by_time

    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": command,
        "objective_ms": setting.objective_ms,
        "load_s": setting.load_s,
        "times": setting.times,
        "machine": machine(),
        "versions": _versions(),
        "verdicts": [{"sentence": sentence, "holds": holds} for sentence, holds in verdicts(rounds, setting)],
        "rounds": as_json(rounds),
    }
    (folder / "overload.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for name, items in windows.items():
        (folder / _figure_name(name)).write_bytes(by_time(items, setting.objective_ms))
    page = markdown(setting, rounds, command)
    if (folder / ENDPOINT).exists():
        page += f"\nThe endpoint, and how its Release is made: [{ENDPOINT}]({ENDPOINT}).\n"
    (folder / "overload.md").write_text(page, encoding="utf-8")


def arms_of(rounds: Sequence[Round]) -> list[Arm]:
    """Those that every round has."""
    return [arm for arm in ARMS if len(of_arm(rounds, arm.name)) == len(rounds)]


def of_arm(rounds: Sequence[Round], arm: str) -> list[ArmResult]:
    return [result for item in rounds for result in item.arms if result.arm == arm]


def verdicts(rounds: Sequence[Round], setting: Setting) -> list[tuple[str, bool]]:
    """What is asked of the cascade, with the medians found, and whether they are within it.

    Nothing where the rounds lack the cascade, or a teacher to compare it with.
    """
    tandem = of_arm(rounds, ARMS[0].name)
    if arms_of(rounds)[:1] != [ARMS[0]] or len(arms_of(rounds)) < 2:
        return []
    p95_ms = _median(tandem, lambda result: result.p95_ms)
    share = _median(tandem, lambda result: result.teacher_share)
    calm_after_s = _median(tandem, lambda result: result.calm_after_s)
    errors = sum(sum(result.errors.values()) for result in tandem)
    fewer = fewer_violations(rounds)
    return [
        (f"{errors} errors in all rounds", errors == 0),
        (f"p95 {milliseconds(p95_ms)} ms, at most {setting.objective_ms:g}", p95_ms <= setting.objective_ms),
        (
            f"{fewer:.3g} times fewer violations than the teacher alone, at least {MIN_FEWER_VIOLATIONS:g}",
            fewer >= MIN_FEWER_VIOLATIONS,
        ),
        (f"{share:.0%} of the teacher's capacity used, at least {MIN_TEACHER_SHARE:.0%}", share >= MIN_TEACHER_SHARE),
        (
            f"normal routing {calm_after_s:.1f} s after the load dropped, at most {MAX_CALM_AFTER_S:g}",
            calm_after_s <= MAX_CALM_AFTER_S,
        ),
    ]


def fewer_violations(rounds: Sequence[Round]) -> float:
    """The median over rounds of the better teacher's violation rate by the cascade's; infinite where it has none."""
    ratios = []
    for item in rounds:
        rates = {result.arm: result.violations / result.requests for result in item.arms}
        alone = min(rates[arm.name] for arm in arms_of(rounds)[1:])
        ratios.append(alone / rates[ARMS[0].name] if rates[ARMS[0].name] else INF)
    return median(ratios)


def markdown(setting: Setting, rounds: Sequence[Round], command: str) -> str:
    """A page that says what was done, found and used."""
    here = machine()
    rates = sorted(round(item.arms[0].rate) for item in rounds)
    lines = [
        f"# {setting.times:g} times what the teacher can do",
        "",
        f"An open loop sends single images at {setting.times:g} times what the teacher alone can answer "
        f"({', '.join(f'{item.capacity:.1f}' for item in rounds)} a second by rounds, measured by a closed loop before "
        f"each; so {rates[0]:,} to {rates[-1]:,} requests/s) for {setting.load_s:g} s, then at "
        f"{CALM_LOAD:g} times what it can answer, where at least {1 - CALM_TOLERANCE:.0%} of the requests have to take "
        f"normal routes again. The objective is {setting.objective_ms:g} ms; late, failed and shed requests are "
        f"violations. Medians of {len(rounds)} rounds, the range in brackets.",
        "",
        *_table(rounds),
        "",
        "*Tandem* is the cascade as it is served. *Teacher* is the same deployment asked with `mode=teacher`: "
        "*shedding* sends the objective as the deadline, so that what would be late is refused at once; *queueing* "
        "sends none.",
        "",
        *(f"- {'Holds' if holds else '**Missed**'}: {sentence}." for sentence, holds in verdicts(rounds, setting)),
        "",
        "## Who answered, under load",
        "",
        *_routes(rounds),
        "",
    ]
    for arm in arms_of(rounds):
        lines += [f"## {arm.name.capitalize()}, the newest round", "", f"![{arm.name}]({_figure_name(arm.name)})", ""]
    lines += [
        "## How",
        "",
        f"{here['cpu']}, {here['cpus']} CPUs, {here['memory_bytes'] / 2**30:.0f} GiB, {here['system']}; client and "
        f"servers share them. {', '.join(f'{name} {number}' for name, number in _versions().items())}.",
        "",
        "```sh",
        command,
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(rounds: Sequence[Round]) -> list[str]:
    rows: list[tuple[str, Callable[[ArmResult], float | None], str]] = [
        ("violations", lambda result: result.violations / result.requests, ".2%"),
        ("failed or shed", lambda result: sum(result.errors.values()) / result.requests, ".2%"),
        ("p50 ms", lambda result: result.p50_ms, ",.1f"),
        ("p95 ms", lambda result: result.p95_ms, ",.1f"),
        ("p99 ms", lambda result: result.p99_ms, ",.1f"),
        ("right answers within the objective, a second", lambda result: result.right_per_s, ",.1f"),
        ("accuracy of what was answered", lambda result: result.accuracy, ".2%"),
        ("accuracy after the load", lambda result: result.calm_accuracy, ".2%"),
        ("teacher's capacity used", lambda result: result.teacher_share, ".0%"),
        ("normal routing after, s", lambda result: result.calm_after_s, ",.1f"),
        ("client sent late, p95 ms", lambda result: result.client_lag_p95_ms, ",.1f"),
    ]
    arms = arms_of(rounds)
    lines = ["| | " + " | ".join(arm.name for arm in arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for name, read, form in rows:
        cells = [_spread([read(result) for result in of_arm(rounds, arm.name)], form) for arm in arms]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _routes(rounds: Sequence[Round]) -> list[str]:
    results = of_arm(rounds, ARMS[0].name)
    if not results:
        return []
    names = sorted(
        {name for result in results for name in result.routes}, key=lambda name: -results[0].routes.get(name, 0)
    )
    lines = ["| route of the cascade | requests | right |", "|---|---|---|"]
    for name in names:
        share = _spread([result.routes.get(name, 0) / result.requests for result in results], ".1%")
        found = [result.accuracy_by_route[name] for result in results if name in result.accuracy_by_route]
        lines.append(f"| {name} | {share} | {_spread([*found], '.1%') if found else ''} |")
    return lines


def _spread(values: Sequence[float | None], form: str) -> str:
    """The median, and the range where there is one; None stands for what never came."""
    ordered = sorted(INF if value is None else value for value in values)
    middle, low, high = (_number(value, form) for value in (median(ordered), ordered[0], ordered[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(value: float, form: str) -> str:
    return "never" if value == INF else format(value, form)


def _median(results: Sequence[ArmResult], read: Callable[[ArmResult], float | None]) -> float:
    found = [read(result) for result in results]
    return median([INF if value is None else value for value in found])


def _figure_name(arm: str) -> str:
    return f"overload-{arm.replace(', ', '-').replace(' ', '-')}.png"


def _versions() -> dict[str, str]:
    """Of what is installed where the client runs; on loopback, where the servers run too."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
