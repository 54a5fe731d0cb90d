"""The cascade study as a page of Markdown."""

from optimization.benchmark.cascade_study import PREDICTED, TEMPERATURE_ROWS, Study
from optimization.benchmark.cascade_times import Timed
from optimization.cascade.resplits import Resplits


def cascade_page(found: Study) -> str:
    """Claim, what was held and what was missed, the choice, the report rows, times, resplits, shift, how."""
    sections = (
        _head(found),
        _singles(found),
        _choice(found),
        _times(found),
        _resplits(found),
        _shift(found),
        _how(found),
    )
    return "\n\n".join(sections) + "\n"


def _head(found: Study) -> str:
    roles, score, aim, paired = found.roles, found.reported.score, found.aim, found.reported.against_best
    best = found.reported.accuracies[roles.best]
    alone = [one.alone[roles.student].median_ms / one.alone[roles.best].median_ms for one in found.timed]
    claims = [
        f"- {_kept(found.reported.check.passed)}: {found.reported.check.sentence} (and at most "
        f"{paired.upper * 100:+.2f}; the bounds are exact).",
        *(
            f"- {_kept_for_certain(one, aim.limit)}: {_share(one, roles.best)}, at most {aim.limit:.0%}."
            for one in found.timed
        ),
        *(
            f"- {_kept(one.held >= one.confidence)}: harm of at most {one.max_harm:.2%} held in {one.held:.1%} of "
            f"{len(one.resplits)} resplits of {one.rows:,} rows, at least {one.confidence:.0%}."
            for one in found.resplits
            if not one.count("mean")
        ),
        *(
            f"- {_kept(one.mean_harm <= one.max_harm)}: from {one.rows:,} rows, too few for a bound with confidence, "
            f"harm was {_percent(one.mean_harm)} on average over {len(one.resplits)} resplits, at most "
            f"{_percent(one.max_harm)}."
            for one in found.resplits
            if one.count("mean")
        ),
    ]
    return "\n".join(
        [
            "# A pair beside the best single model",
            "",
            f"{roles.student} answers what it is sure of, {roles.teacher} the rest. On {score.rows:,} report rows of "
            f"{found.task} the pair scores {_percent(score.accuracy)} "
            f"({_interval(score.accuracy_interval)}), {roles.best} alone {_percent(best)}. It leaves "
            f"{score.deferral:.1%} ({_interval(score.deferral_interval, 1)}) to the teacher and harms "
            f"{_percent(score.harm)} ({_interval(score.harm_interval)}); intervals are exact, at 95 %.",
            "",
            *claims,
            "",
            f"{roles.student} alone takes {min(alone):.0%} to {max(alone):.0%} of {roles.best}'s time, by batch "
            "size: a pair in which it answers first cannot take less.",
            *(["", found.note] if found.note else []),
        ]
    )


def _singles(found: Study) -> str:
    some = next(iter(found.timed[0].alone.values()))
    header = "| alone | accuracy |" + "".join(f" ms a row, batch {one.batch_size} |" for one in found.timed)
    rows = [
        f"| {name} | {_percent(accuracy)} |" + "".join(f" {one.alone[name].median_ms:.3f} |" for one in found.timed)
        for name, accuracy in found.reported.accuracies.items()
    ]
    return "\n".join(
        [
            "## Each alone, on the report rows",
            "",
            header,
            "|---|---|" + "---|" * len(found.timed),
            *rows,
            "",
            f"One thread, in process, {len(some.round_ms)} interleaved rounds over the same {some.rows:,} rows; "
            "medians.",
            "",
            f"![accuracy by time]({found.name}-cost.png)",
        ]
    )


def _choice(found: Study) -> str:
    chosen, roles, times = found.chosen, found.roles, found.times
    lines = [
        "## The threshold, and what chose it",
        "",
        f"The harm bound is the strictest whose pair is expected to take at most {PREDICTED * found.aim.limit:.0%} of "
        f"{roles.best}'s time, so that what time there is goes into being level; where that one is not level with "
        f"{roles.best} alone on the {found.cut_rows[1]:,} gate rows, or none is so fast, the loosest that is level. "
        "Calibrations of the size to come are drawn from these rows, and the median one's pair is tested on all of "
        "them.",
        "",
        f"| bound | promise | deferred | accuracy | harm | expected ms a row | of {roles.best}'s time | points against "
        "it, at least | level |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one, level in zip(chosen.prospects, chosen.levels, strict=True):
        mark = "**" if one.max_harm == chosen.max_harm else ""
        lines.append(
            f"| {mark}{one.max_harm:.2%}{mark} | {one.kind.replace('_', ' ')} | {one.deferral:.1%} | "
            f"{_percent(one.accuracy)} | {_percent(one.harm)} | {one.cost_ms:.3f} | "
            f"{one.cost_ms / times.best_ms:.0%} | {level.figure * 100:+.2f} | "
            f"{'yes' if level.passed else 'no'} |"
        )
    calibration = chosen.calibration
    threshold = "none" if calibration.threshold is None else f"{calibration.threshold:.6g}"
    lines += [
        "",
        f"Then the {found.cut_rows[0]:,} calibration rows were used, once: {TEMPERATURE_ROWS} for the temperature "
        f"({calibration.temperature:.3f}), the others for the threshold ({threshold}). "
        f"{calibration.guarantee.statement}",
        "",
        "On the gate rows:",
        "",
        *(
            f"- {'passed' if check.passed else '**failed**'}, {check.name}: {check.sentence}."
            for check in chosen.gate_checks
        ),
        "",
        f"![accuracy and harm by deferral]({found.name}-curve.png)",
    ]
    return "\n".join(lines)


def _times(found: Study) -> str:
    some, best = found.timed[0].items["pair"], found.roles.best
    lines = [
        "## Time",
        "",
        f"| batch | pair, ms a row | {best} | the pair's share of it | of that the student | cores that others kept "
        "busy |",
        "|---|---|---|---|---|---|",
    ]
    for one in found.timed:
        low, high = one.items["pair"].spread_ms
        whole = one.items[best].median_ms
        lines.append(
            f"| {one.batch_size} | {one.items['pair'].median_ms:.3f} ({low:.3f} to {high:.3f}) | {whole:.3f} | "
            f"{one.share:.1%} ({1 / one.speedup.upper:.1%} to {1 / one.speedup.lower:.1%}) | "
            f"{one.items['student in pair'].median_ms / whole:.1%} | {_busy(one)} |"
        )
    lines += [
        "",
        f"In process, {len(some.round_ms)} interleaved rounds over the same {some.rows:,} report rows, one thread. The "
        "student's share holds what the pair reckons for every row. What is left of it through HTTP: "
        f"`python -m loadtests.cascade --model {found.task}`.",
    ]
    return "\n".join(lines)


def _resplits(found: Study) -> str:
    lines = [
        "## Does the bound hold?",
        "",
        f"All {sum(found.cut_rows):,} rows, of which {found.roles.best} alone answers {_percent(found.best_of_all)} "
        f"right, drawn anew {len(found.resplits[0].resplits)} times: so many calibrate, the others are looked at.",
        "",
        "| promise | calibration rows (of them for the temperature) | kind | held on the rows left over | held on "
        "the whole set | mean harm | mean deferral | mean accuracy |",
        "|---|---|---|---|---|---|---|---|",
        *(_resplit_row(one) for one in found.resplits),
        "",
        "The guarantee is about the population that rows are drawn from. When rows are drawn from a finite set that "
        "is the set as a whole, where the exact bound holds as stated; the rows left over are a second draw, whose "
        "own noise adds a little. Where the rows are too few for a bound with confidence, the weaker one is given, "
        "which holds on average: then it is the mean harm that has to be within it.",
        "",
        f"![harm of every resplit]({found.name}-resplits.png)",
    ]
    return "\n".join(lines)


def _resplit_row(one: Resplits) -> str:
    kinds = ", ".join(
        f"{kind.replace('_', ' ')} {one.count(kind)}"
        for kind in ("high_probability", "mean", "none")
        if one.count(kind)
    )
    return (
        f"| {one.max_harm:.2%} | {one.rows:,} ({one.temperature_rows}) | {kinds} | {one.held:.1%} "
        f"({_interval(one.interval(one.held), 1)}) | {one.held_all:.1%} ({_interval(one.interval(one.held_all), 1)}) | "
        f"{_percent(one.mean_harm)} | {one.mean_deferral:.1%} | {_percent(one.mean_accuracy)} |"
    )


def _shift(found: Study) -> str:
    shift = found.shift
    worst = sorted(shift.shifted, key=lambda one: -one.score.harm)[:6]
    rows = [
        f"| {one.corruption} | {one.severity} | {_percent(one.score.harm)} ({_interval(one.score.harm_interval)}) | "
        f"{one.score.deferral:.1%} | {_percent(one.score.accuracy)} | {_percent(one.score.teacher_accuracy)} |"
        for one in worst
    ]
    clean = shift.clean
    return "\n".join(
        [
            "## Under a shift the promise lapses",
            "",
            f"{shift.statement()} {clean.rows:,} report rows, {len({o.corruption for o in shift.shifted})} "
            "corruptions, the six that harm most:",
            "",
            "| corruption | severity | harmed | left to the teacher | accuracy of the pair | of the teacher |",
            "|---|---|---|---|---|---|",
            f"| none | | {_percent(clean.harm)} ({_interval(clean.harm_interval)}) | {clean.deferral:.1%} | "
            f"{_percent(clean.accuracy)} | {_percent(clean.teacher_accuracy)} |",
            *rows,
            "",
            f"![the shifted set]({found.name}-shift.png)",
        ]
    )


def _how(found: Study) -> str:
    host = found.host
    libraries = ", ".join(f"{name} {version}" for name, version in host.libraries)
    cut = ", ".join(
        f"{rows:,} {name}" for rows, name in zip(found.cut_rows, ("calibration", "gate", "report"), strict=True)
    )
    return "\n".join(
        [
            "## How",
            "",
            f"{host.cpu} ({', '.join(host.instructions)}), {host.cores} logical cores, {host.threads} thread a model; "
            f"{libraries}. Models: {found.models_by}. Rows: {cut}, of {found.rows_by}.",
            "",
            "```sh",
            found.command,
            "```",
        ]
    )


def _share(one: Timed, best: str) -> str:
    return (
        f"at batch {one.batch_size} the pair takes {one.share:.1%} of {best}'s time "
        f"({1 / one.speedup.upper:.1%} to {1 / one.speedup.lower:.1%})"
    )


def _busy(one: Timed) -> str:
    return "unknown" if one.load.others_cores is None else f"{one.load.others_cores:.2f}"


def _kept(held: bool) -> str:
    return "Holds" if held else "**Missed**"


def _kept_for_certain(one: Timed, limit: float) -> str:
    """Of a share of time that may be `limit` at most, by its interval."""
    low, high = 1 / one.speedup.upper, 1 / one.speedup.lower
    return "Holds" if high <= limit else "**Missed**" if low > limit else "**Undecided**"


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _interval(interval: tuple[float, float], decimals: int = 2) -> str:
    return f"{interval[0]:.{decimals}%} to {interval[1]:.{decimals}%}"
