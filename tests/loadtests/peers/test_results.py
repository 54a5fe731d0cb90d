from pathlib import Path

from loadtests.peers.client import Load
from loadtests.peers.report import draw, markdown
from loadtests.peers.results import Results, Spread, differing
from loadtests.peers.rounds import CEILING, Sample

ABOUT = {
    "started_at": "2026-01-01T00:00:00+00:00",
    "command": "python -m loadtests.peers",
    "machine": {"cpu": "a CPU", "cores": 8, "cores_used": 2, "system": "Linux", "python": "3.11"},
    "client": "wrk",
    "model_sha256": "0" * 64,
    "rounds": 3,
    "plan": {"kinds": ["image", "batch"], "connections": [1, 8, 64], "seconds": 4.0, "warmup_s": 2.0},
    "versions": {"tandem": {"ray": "2.60.0"}, "litserve": {"litserve": "0.2.19"}},
}


def sample(server: str, kind: str, connections: int, number: int, rate: float, p50_ms: float = 1.0) -> Sample:
    load = Load(int(4 * rate), 4.0, p50_ms, 2.0, 3.0, 4.0, 0)
    rows = 32 if kind == "batch" else 1
    return Sample(server, kind, connections, number, rate * rows, load, {"ingress replica": 4.0, "client": 1.0})


def results() -> Results:
    made = Results(ABOUT, skipped={"pytriton": "no binary for this platform"})
    for number, rate in enumerate((2000.0, 2200.0, 2100.0), start=1):
        made.samples += [sample("tandem", "image", count, number, rate, 1.5) for count in (1, 8, 64)]
        made.samples += [sample("litserve", "image", count, number, rate / 2) for count in (1, 8, 64)]
        made.samples += [sample("ray-echo", "image", count, number, rate * 2, 0.9) for count in (1, 8, 64)]
        made.samples += [sample("tandem", "batch", count, number, 200.0) for count in (1, 8, 64)]
        made.samples += [Sample(CEILING, kind, 0, number, 8000.0) for kind in ("image", "batch")]
    return made


def test_results_survive_their_file(tmp_path: Path) -> None:
    made = results()
    made.save(tmp_path / "peers.json")
    assert Results.load(tmp_path / "peers.json") == made


def test_a_figure_is_the_median_of_its_rounds() -> None:
    assert results().rate("tandem", "image", 64) == Spread(2100.0, 2000.0, 2200.0, 3)
    assert results().rate("mosec", "image", 64) is None


def test_large_requests_are_told_at_each_servers_best() -> None:
    """A server that sheds would else be judged by a closed loop of refusals."""
    made = results()
    shed = Load(1000, 4.0, 1, 1, 1, 1, failed=900)
    made.samples = [item for item in made.samples if (item.kind, item.connections) != ("batch", 64)]
    made.samples.append(Sample("tandem", "batch", 64, 1, 800.0, shed))
    assert made.best_connections("tandem", "batch") == 1
    assert made.best_connections("mosec", "batch") is None
    assert "6,400 images/s at 1 connections" in markdown(made, "peers.png")


def test_failed_requests_are_no_throughput() -> None:
    made = Results(ABOUT, [Sample("tandem", "image", 1, 1, 0.0, Load(100, 1.0, 1, 1, 1, 1, failed=40))])
    assert made.rate("tandem", "image", 1) == Spread(60.0, 60.0, 60.0, 1)


def test_cpu_is_told_by_request_and_part() -> None:
    (part, us), *_ = results().cpu_us("tandem", "image", 64).items()
    assert (part, round(us)) == ("ingress replica", round(4e6 / 8400))


def test_a_run_is_not_continued_under_other_conditions() -> None:
    other = {**ABOUT, "client": "python", "rounds": 5}
    assert differing(ABOUT, other) == ["client"]


def test_the_report_states_ratios_spread_conditions_and_what_is_missing() -> None:
    text = markdown(results(), "peers.png")
    assert "| LitServe | 2,100 / 1,050 | 2.00 |" in text
    assert "2,100 (2,000 - 2,200)" in text
    assert "at 1 connections, 80% of the 8,000" in text
    assert "p50 1.50 ms, 0.60 ms more than the bare echo's 0.90 ms" in text
    assert "- pytriton: not measured. no binary for this platform" in text
    assert "litserve 0.2.19" in text
    assert "ingress replica 476" in text


def test_the_report_is_written_without_tandem_too() -> None:
    made = results()
    made.samples = [item for item in made.samples if item.server == "litserve"]
    assert "LitServe" in markdown(made, "peers.png")


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    draw(results(), tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
