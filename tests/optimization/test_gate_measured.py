from dataclasses import replace
from typing import Any

import pytest

from optimization.gate_measured import gate_measured
from optimization.measure.cost import Cost, Energy
from optimization.measure.footprint import Footprint
from optimization.measure.host import Host, Load
from optimization.measure.latency import BatchLatency, Latency
from optimization.measure.measurement import Measurement, Paired
from optimization.measure.paired import PairedDifference
from optimization.measure.parity import Parity

DIFFERENCE = PairedDifference(-0.002, -0.006, 0.002, 6, 4, 1000, 0.95)


def _latency(*round_ms: float) -> Latency:
    def at(size: int) -> BatchLatency:
        rounds = tuple(value * size for value in round_ms)
        return BatchLatency(size, rounds[0], rounds[0], rounds[0], rounds[0], rounds, 12)

    return Latency((at(1), at(8)))


PARENT = Measurement(
    version="m@1",
    digest="0" * 64,
    variant="fp32",
    device="cpu",
    precision="fp32",
    split="gate",
    data_hash="1" * 64,
    rows=1000,
    accuracy=0.95,
    accuracy_interval=(0.93, 0.97),
    latency=_latency(*[2.0] * 12),
    footprint=Footprint(4000, 1, 1, 1.0, (1.0, 1.0), 0.1, (1, 8), 1),
    cost=Cost(None, None, 1, Energy(None, "not measured")),
    paired=None,
    host=Host("a cpu", (), 2, 1, "Linux", "3.11", ()),
    load=Load(0.1, 0.0, 0.0),
    measured_at="2026-01-02T03:04:05+00:00",
)


def _candidate(**changes: Any) -> Measurement:
    paired = Paired("m@1", DIFFERENCE, 0.01, Parity(0.4, 5, 512), ())
    same = replace(PARENT, version="m@2", precision="int8", paired=paired, latency=_latency(*[1.0] * 12))
    return replace(same, **changes)


def _failed(candidate: Measurement, **limits: Any) -> list[str]:
    return [check.name for check in gate_measured(candidate, PARENT, **{"margin": 0.01, **limits}).failures]


def test_a_faster_candidate_that_keeps_level_passes() -> None:
    verdict = gate_measured(_candidate(), PARENT, margin=0.01, max_parity_flip_rate=0.02)
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["non_inferior", "flips", "gain", "not_slower", "parity"]
    assert "2 times as fast" in verdict.checks[2].sentence


def test_each_failing_is_named() -> None:
    assert _failed(_candidate(), margin=0.005) == ["non_inferior"]
    assert _failed(_candidate(), max_flip_rate=0.005) == ["flips"]
    assert _failed(_candidate(), max_parity_flip_rate=0.005) == ["parity"]
    assert _failed(_candidate(latency=_latency(*[2.0] * 12))) == ["gain"]
    slower = _candidate(latency=_latency(*[3.0] * 12), footprint=replace(PARENT.footprint, size_bytes=400))
    assert _failed(slower) == ["not_slower"]
    assert _failed(slower, max_slowdown=2.0) == []


def test_a_speed_up_whose_interval_includes_one_is_no_gain() -> None:
    noisy = _candidate(latency=_latency(1.2, 2.4, 1.3, 2.5, 1.4, 2.2, 1.5, 2.1, 1.6, 1.9, 2.3, 1.7))
    assert _failed(noisy) == ["gain"]


def test_a_change_of_format_alone_is_held_to_its_logits() -> None:
    assert _failed(_candidate(precision="fp32"), max_parity_flip_rate=0.02) == ["parity"]


def test_too_few_rows_are_a_refusal() -> None:
    few = replace(DIFFERENCE, rows=200, lower=-0.001)
    paired = Paired("m@1", few, 0.0, Parity(0.0, 0, 200), ())
    verdict = gate_measured(_candidate(paired=paired), PARENT, margin=0.01)
    assert verdict.failures[0].sentence.startswith("Too few rows: 200; at least 299")


def test_what_was_not_measured_side_by_side_is_not_judged() -> None:
    with pytest.raises(ValueError, match="m@2 was compared with nothing, not with m@1"):
        gate_measured(_candidate(paired=None), PARENT, margin=0.01)
    with pytest.raises(ValueError, match="m@2 was compared with m@1, not with m@7"):
        gate_measured(_candidate(), replace(PARENT, version="m@7"), margin=0.01)
    with pytest.raises(ValueError, match="measure both in one run"):
        gate_measured(_candidate(data_hash="2" * 64), PARENT, margin=0.01)
    with pytest.raises(ValueError, match="measure both in one run"):
        gate_measured(_candidate(host=replace(PARENT.host, threads=2)), PARENT, margin=0.01)
