"""Report: one run as JSON for programs and as one self-contained HTML page for people."""

import json
import math
import os
import platform
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtests.open_loop import Plan
from loadtests.payloads import RequestOptions
from loadtests.summary import UNKNOWN, Judged, Objective, Summary
from loadtests.timeline import Window, timeline, violations


@dataclass(frozen=True)
class Run:
    """A finished run. `started_at`: ISO 8601 with offset; `options`: what was asked of the endpoint.

    `replicas`: running ones of each deployment at so many seconds of the measured time, where Ray was asked.
    """

    url: str
    model: str
    model_versions: tuple[str, ...]
    command: str
    started_at: str
    inputs: str
    samples: int
    options: RequestOptions
    plan: Plan
    objective: Objective
    summary: Summary
    replicas: tuple[tuple[float, dict[str, int]], ...] = ()

    @property
    def met(self) -> bool:
        return self.summary.met(self.objective)


def write_report(run: Run, judged: Sequence[Judged], folder: Path) -> tuple[Path, Path]:
    """Write slo.json and slo.html into `folder`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    json_file, html_file = folder / "slo.json", folder / "slo.html"
    windows = timeline(judged, run.plan.duration_s, run.objective.p95_ms)
    facts = {
        "met": run.met,
        **asdict(run),
        "goodput": _goodput(run, judged),
        "timeline": [asdict(window) for window in windows],
        "machine": machine(),
        "versions": versions(),
    }
    json_file.write_text(json.dumps(_finite(facts), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    html_file.write_text(html(run, judged, windows), encoding="utf-8")
    return json_file, html_file


def _goodput(run: Run, judged: Sequence[Judged]) -> float:
    """Answers within the objective, a second of the plan."""
    return (len(judged) - violations(judged, run.objective.p95_ms)) / run.plan.duration_s


def machine() -> dict[str, Any]:
    """The machine that the client ran on (on loopback, the server too)."""
    return {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("aiohttp", "numpy")}}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _finite(value: Any) -> Any:
    """JSON has no infinity: a latency that never ended becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def milliseconds(value: float) -> str:
    return f"{value:,.1f}" if math.isfinite(value) else "inf"


def table(run: Run) -> list[tuple[str, str]]:
    """The result as rows of name and value, for the terminal and the page alike."""
    result, latency = run.summary, run.summary.latency_ms
    rows = [
        ("requests", f"{result.requests:,} ({result.answered:,} answered, {result.failed:,} failed)"),
        ("rate", f"{result.offered_rate:,.1f}/s offered, {result.answered_rate:,.1f}/s answered"),
        ("errors", f"{result.error_rate:.2%} (at most {run.objective.max_error_rate:.2%})"),
        *((f"  {count:,} x", error) for error, count in list(result.errors.items())[:5]),
        *([("  first", result.first_error)] if result.first_error else []),
        ("p50 / p90 ms", f"{milliseconds(latency.p50)} / {milliseconds(latency.p90)}"),
        ("p95 ms", f"{milliseconds(latency.p95)} (at most {run.objective.p95_ms:g})"),
        ("p99 / max ms", f"{milliseconds(latency.p99)} / {milliseconds(latency.max)}"),
    ]
    for name, counts in (("variant", result.variants), ("reason", result.reasons), ("release", result.releases)):
        if set(counts) - {UNKNOWN}:
            rows.append((name, ", ".join(f"{key} {count / result.answered:.1%}" for key, count in counts.items())))
    if result.accuracy is not None:
        rows.append(("accuracy", f"{result.accuracy:.2%} of {result.rows:,} rows ({run.inputs})"))
    rows.append(("client lag p95 ms", milliseconds(result.client_lag_p95_ms)))
    return rows


def html(run: Run, judged: Sequence[Judged], windows: Sequence[Window]) -> str:
    """A page that needs no other file and no network; everything the endpoint said is escaped."""
    from loadtests.figures import latency_by_time, latency_distribution, route_mix
    from loadtests.time_figures import by_time

    figures = [
        ("Second by second", by_time(windows, run.objective.p95_ms, run.replicas)),
        ("Every request", latency_by_time(judged, run.objective.p95_ms)),
        ("Latency distribution", latency_distribution(judged, run.objective.p95_ms)),
        ("Who answered, and why", route_mix(judged)),
    ]
    plan = run.plan
    version_words = f", version {', '.join(run.model_versions)}" if run.model_versions else ""
    setting = [
        ("endpoint", f"{run.url}, model {run.model}{version_words}"),
        ("started", run.started_at),
        (
            "load",
            f"{_rate_words(plan)}, {plan.arrivals} arrivals, {plan.duration_s:g} s after {plan.warmup_s:g} s "
            f"of warm-up, at most {plan.max_in_flight} in flight, timeout {plan.timeout_s:g} s, seed {plan.seed}",
        ),
        ("request", _request_words(run.options)),
        ("inputs", f"{run.inputs}, {run.samples:,} samples"),
        ("client machine", ", ".join(f"{value}" for value in _machine_words())),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
    ]
    verdict = "Objective met" if run.met else "Objective missed"
    words = (
        f"p95 {milliseconds(run.summary.latency_ms.p95)} ms "
        f"(at most {run.objective.p95_ms:g} ms), errors {run.summary.error_rate:.2%} "
        f"(at most {run.objective.max_error_rate:.2%})"
    )
    return PAGE.format(
        title=escape(f"{verdict}: {run.model} at {plan.rate:g}/s"),
        verdict=verdict,
        tone="met" if run.met else "missed",
        words=escape(words),
        result=_rows([*table(run), _goodput_row(run, judged)]),
        variants=_variant_table(run.summary),
        figures="".join(
            f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{b64encode(png).decode()}">'
            for name, png in figures
        ),
        setting=_rows(setting),
        command=escape(run.command),
    )


def _goodput_row(run: Run, judged: Sequence[Judged]) -> tuple[str, str]:
    missed = violations(judged, run.objective.p95_ms)
    words = f"{_goodput(run, judged):,.1f}/s answered within {run.objective.p95_ms:g} ms"
    return "goodput", f"{words}; {missed:,} requests ({missed / len(judged):.2%}) late, failed or shed"


def _rate_words(plan: Plan) -> str:
    if plan.shape == "steady":
        return f"{plan.rate:g} requests/s"
    return f"{plan.shape} from {plan.base_rate:g} to {plan.rate:g} requests/s"


def _request_words(options: RequestOptions) -> str:
    rows = f"{options.batch} row{'s' * (options.batch > 1)}, {'binary' if options.binary else 'JSON'} tensors"
    return ", ".join([rows, *(f"{name} {value}" for name, value in options.parameters.items())])


def _machine_words() -> list[str]:
    here = machine()
    return [here["cpu"], f"{here['cpus']} CPUs", f"{here['memory_bytes'] / 2**30:.1f} GiB", here["system"]]


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<tr><th>{escape(name.strip())}</th><td>{escape(value)}</td></tr>" for name, value in rows)


def _variant_table(summary: Summary) -> str:
    if not set(summary.variants) - {UNKNOWN}:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("variant", "requests", "p50 ms", "p95 ms", "p99 ms", "max ms"))
    body = ""
    for variant, latency in summary.latency_ms_by_variant.items():
        numbers = (latency.p50, latency.p95, latency.p99, latency.max)
        cells = "".join(f"<td>{milliseconds(number)}</td>" for number in numbers)
        body += f"<tr><th>{escape(variant)}</th><td>{summary.variants[variant]:,}</td>{cells}</tr>"
    return f'<table class="grid"><tr>{head}</tr>{body}</table>'


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1d1d1f; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .4rem; }}
.verdict {{ border-left: .4rem solid; padding: .6rem 1rem; margin-bottom: 1.5rem; }}
.verdict p {{ margin: .1rem 0 0; }}
.met {{ border-color: #1e8449; background: #eaf6ee; }}
.missed {{ border-color: #c0392b; background: #fbecea; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e8e8e8; }}
th {{ font-weight: 600; white-space: nowrap; width: 10rem; }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.grid {{ margin-top: 1.2rem; }}
.grid th, .grid td {{ width: auto; text-align: right; }}
.grid th:first-child {{ text-align: left; }}
img {{ width: 100%; height: auto; }}
pre {{ background: #f5f5f7; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style></head><body>
<div class="verdict {tone}"><h1>{verdict}</h1><p>{words}</p></div>
<table>{result}</table>{variants}
{figures}
<h2>Setting</h2><table>{setting}</table>
<h2>Command</h2><pre>{command}</pre>
<p>Latency counts from each request's scheduled arrival, so waiting behind a stall is included. A request that fails,
meets its timeout or cannot be sent counts as infinitely late. Quantiles are by nearest rank.</p>
</body></html>
"""
