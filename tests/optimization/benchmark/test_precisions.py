"""On a CPU: what it cannot do is told, and the page reckons with what was measured."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optimization.benchmark import precisions
from optimization.benchmark.precisions import WAYS, Entry, Way, _gap, compare, main, page, peaks_of, why_not
from optimization.measure.latency import BatchLatency, Latency
from training.models.architecture import Architecture

CPU = torch.device("cpu")


def _latency(p50_ms: float) -> Latency:
    return Latency((BatchLatency(4, p50_ms, p50_ms, p50_ms, p50_ms, (p50_ms,), 15),))


def test_the_share_of_the_peak_counts_a_multiply_accumulate_as_two() -> None:
    entry = Entry("net", Way("bf16"), macs=500_000_000, latency=_latency(2.0), largest_difference=0.0)
    # 4 rows of 10^9 operations in 2 ms are 2 x 10^12 a second.
    assert entry.share_of_peak(4, {"bf16": 8.0}) == pytest.approx(0.25)
    assert entry.share_of_peak(4, {"fp32": 8.0}) is None
    assert "| net | bf16 | 0 | 2.000 ms, 2,000, 25.0% |" in page([entry], [4], {"bf16": 8.0}, "a command")
    assert "| net | bf16 | 0 | 2.000 ms, 2,000 |" in page([entry], [4], {}, "a command")


def test_what_is_not_run_is_told_once_a_reason() -> None:
    absent = [Entry(name, Way("tf32"), 1, reason="no GPU") for name in ("one", "two")]
    assert "- Not run: one (tf32), two (tf32): no GPU\n" in page(absent, [4], {}, "a command")


def test_a_cpu_has_neither_graphs_nor_tf32() -> None:
    refused = {way.name for way in WAYS if why_not(way, CPU)}
    assert refused == {way.name for way in WAYS if way.graphed or way.precision == "tf32"}
    assert peaks_of(CPU) == {}


def test_logits_are_compared_over_the_rows_that_both_have() -> None:
    exact = torch.tensor([[1.0, -2.0], [4.0, 0.0]])
    assert _gap(exact, torch.tensor([[1.0, -1.0]])) == 0.5
    assert _gap(exact[:1], torch.tensor([[1.0, -1.0], [9.0, 9.0]])) == 0.5
    assert _gap(None, exact) is None and _gap(exact, None) is None


@pytest.mark.slow
def test_ways_that_run_are_measured_and_others_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [Way("fp32"), Way("tf32"), Way("bf16", channels_last=True)]
    exact, absent, few = compare(Architecture("resnet20"), ways, 16, CPU, [1, 4], rounds=2)
    assert absent.latency is None and absent.reason is not None
    assert exact.latency is not None and few.latency is not None
    assert exact.largest_difference == 0
    assert few.largest_difference is not None and 0 < few.largest_difference < 0.1
    assert exact.macs == few.macs > 1_000_000

    whole = precisions.measure_latency

    def crowded(runners: Any, batch_of: Any, sizes: tuple[int, ...], rounds: int) -> Any:
        if sizes == (4,):
            raise RuntimeError("out of memory\nand a trace")
        return whole(runners, batch_of, sizes, rounds)

    monkeypatch.setattr(precisions, "measure_latency", crowded)
    exact, few = compare(Architecture("resnet20"), [Way("fp32"), Way("bf16")], 16, CPU, [1, 4], rounds=2)
    assert exact.reason == few.reason == "from batch 4 on: out of memory"
    assert few.largest_difference is not None and 0 < few.largest_difference < 0.1
    (some,) = compare(Architecture("resnet20"), [Way("bf16")], 16, CPU, [1, 4], rounds=2)
    assert some.reason == "from batch 4 on: out of memory"
    assert some.latency is not None and [one.batch_size for one in some.latency.batches] == [1]
    assert some.largest_difference is None, "there is nothing in fp32 to compare with"
    told = page([some], [1, 4], {}, "a command")
    assert "| resnet20 | bf16 |  | " in told and " |  |\n" in told
    assert "- Not run: resnet20 (bf16): from batch 4 on: out of memory" in told


@pytest.mark.slow
def test_the_command_writes_page_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["resnet20", "--size", "8", "--batches", "2", "--device", "cpu", "--eager", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["optimization.benchmark.precisions", *arguments, "--out", str(tmp_path)])
    main()
    told = (tmp_path / "precisions.md").read_text()
    assert "| resnet20 | bf16, channels-last |" in told
    assert "CUDA graphs need a GPU" in told
    entries = json.loads((tmp_path / "precisions.json").read_text())["entries"]
    assert len(entries) == len([way for way in WAYS if not way.compiled])
    assert entries[0]["latency"][0]["batch_size"] == 2
