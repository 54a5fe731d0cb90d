"""Picture: the demo's page as a PNG, by a headless Chromium where there is one, else its curves by matplotlib."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from apps.demo.script import Act, Sample

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1180, 1345
TIMEOUT_S = 60.0


def photograph(page_url: str, target: Path) -> bool:
    """Save the page as it stands now; False where no browser of this machine can."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}"),
            *(f"--window-size={WIDTH},{HEIGHT}", "--force-device-scale-factor=1.5"),
            *(f"--screenshot={target}", f"{page_url}/?still"),
        ]
        try:
            subprocess.run(command, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, capture_output=True)
        except (subprocess.SubprocessError, OSError):
            return False
    return target.exists()


def plot(samples: Sequence[Sample], acts: Sequence[Act], objective_ms: float, target: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 7.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    rates, latency, shares = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    at_s = [sample.at_s for sample in samples]

    def of(sample: Sample, *routes: str) -> float:
        return sum(value for name, value in sample.by_route_per_s.items() if name.startswith(routes))

    layers = {
        "teacher": ("#E69F00", ("escalated", "pinned")),
        "student, sure of it": ("#0072B2", ("confident",)),
        "student, for the teacher": ("#7CC4EE", ("fallback",)),
        "refused or failed": ("#8A93A1", ("shed", "failed")),
    }
    rates.stackplot(
        at_s,
        *([of(sample, *routes) for sample in samples] for _, routes in layers.values()),
        labels=list(layers),
        colors=[colour for colour, _ in layers.values()],
    )
    rates.legend(loc="upper right", fontsize=8, frameon=False)
    rates.set_ylabel("requests/s")
    latency.plot(at_s, [sample.p95_ms if sample.p95_ms is not None else float("nan") for sample in samples])
    latency.axhline(objective_ms, color="#333333", linestyle="--", linewidth=1)
    latency.set_ylim(0, 2 * objective_ms)
    latency.set_ylabel("p95 (ms)")
    for name, values in (
        ("answered in time", [sample.in_time for sample in samples]),
        ("right, of those answered", [sample.accuracy for sample in samples]),
    ):
        shares.plot(at_s, [float("nan") if value is None else 100 * value for value in values], label=name)
    shares.legend(loc="lower right", fontsize=8, frameon=False)
    shares.set_ylabel("%")
    shares.set_xlabel("seconds")
    for act in range(1, len(acts)):
        began = next((sample.at_s for sample in samples if sample.act == act), None)
        if began is not None:
            for axes in (rates, latency, shares):
                axes.axvline(began, color="#CCCCCC", linewidth=0.8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
