import dataclasses
import json
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from optimization.measure.__main__ import main
from optimization.measure.cost import Cost, Energy
from optimization.measure.footprint import Footprint
from optimization.measure.host import Host, Load
from optimization.measure.latency import BatchLatency, Latency
from optimization.measure.measurement import Measurement, Paired, log_measurement, read_measurements
from optimization.measure.paired import ClassDelta, PairedDifference
from optimization.measure.parity import Parity
from tests import duel
from training.registry import Registry, Version

HOST = Host("a cpu", ("avx2",), 2, 1, "Linux x86_64", "3.11", (("numpy", "2.0"),))
MEASUREMENT = Measurement(
    version="duel@1",
    digest="0" * 64,
    variant="student",
    device="cpu",
    precision="int8",
    split="gate",
    data_hash="1" * 64,
    rows=600,
    accuracy=0.95,
    accuracy_interval=(0.93, 0.97),
    latency=Latency((BatchLatency(1, 1.0, 2.0, 3.0, 1.25, (1.0, 1.1), 30),)),
    footprint=Footprint(1000, 2000, 500, 1.5, (1.2, 1.9), 0.1, (1,), 3),
    cost=Cost(1.8, 0.5, 1, Energy(None, "not measured: no counter")),
    paired=Paired(
        "duel@2",
        PairedDifference(-0.01, -0.02, 0.0, 7, 1, 600, 0.95),
        0.02,
        Parity(0.5, 3, 512),
        (ClassDelta("a", 200, 0.9, 0.88, 5, 1, 0.7),),
    ),
    host=HOST,
    load=Load(0.5, 0.1, 0.0),
    measured_at="2026-01-02T03:04:05+00:00",
)


def test_a_measurement_is_json_and_back() -> None:
    assert Measurement.from_json(MEASUREMENT.to_json()) == MEASUREMENT
    alone = dataclasses.replace(MEASUREMENT, paired=None)
    assert Measurement.from_json(alone.to_json()) == alone
    for broken in ("{}", "[]", "nonsense", json.dumps({**json.loads(MEASUREMENT.to_json()), "latency": 3})):
        with pytest.raises(ValueError, match="this is no Measurement"):
            Measurement.from_json(broken)


def test_its_metrics_are_named_by_split_variant_and_batch_size() -> None:
    metrics = MEASUREMENT.metrics()
    assert metrics["gate/student/batch1_p99_ms"] == 3.0
    assert metrics["gate/student/batch1_rows_per_s"] == 800.0
    assert metrics["gate/student/paired_lower"] == -0.02
    assert metrics["gate/student/cost_per_million_rows"] == 0.5
    assert "gate/student/joules_per_row" not in metrics, "what was not measured is not logged as a number"


def test_another_host_or_setting_is_another_measurement() -> None:
    keys = {
        MEASUREMENT.key,
        dataclasses.replace(MEASUREMENT, split="report").key,
        dataclasses.replace(MEASUREMENT, host=dataclasses.replace(HOST, threads=2)).key,
        dataclasses.replace(MEASUREMENT, host=dataclasses.replace(HOST, cpu="another")).key,
        dataclasses.replace(MEASUREMENT, device="cuda:0").key,
    }
    assert len(keys) == 5
    assert dataclasses.replace(MEASUREMENT, measured_at="2027", accuracy=0.9).key == MEASUREMENT.key


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def versions(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    """A slow exact model, and a quick flawed one that says that it was made from it."""
    folder = tmp_path_factory.mktemp("models")
    exact = duel.write_model(folder / "exact", "exact", work=60_000)
    flawed = duel.write_model(folder / "flawed", "flawed", flaw=1.0, parent=exact.digest)
    return duel.publish_model(registry, exact), duel.publish_model(registry, flawed)


@pytest.mark.slow
def test_measurements_lie_with_the_run_of_their_version(registry: Registry, versions: tuple[Version, Version]) -> None:
    version = versions[0]
    mine = dataclasses.replace(MEASUREMENT, digest=version.digest, version=version.reference)
    log_measurement(registry, version, mine)
    newer = dataclasses.replace(mine, split="report", measured_at="2026-02-02T03:04:05+00:00")
    log_measurement(registry, version, newer)
    again = dataclasses.replace(mine, accuracy=0.5)
    log_measurement(registry, version, again)
    assert read_measurements(registry, version) == (newer, again)
    assert read_measurements(registry, versions[1]) == ()
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    assert client.get_run(version.run_id).data.metrics["gate/student/batch1_p50_ms"] == 1.0
    with pytest.raises(ValueError, match="the measurement is of duel@1"):
        log_measurement(registry, version, MEASUREMENT)


def test_what_was_measured_by_digests_gets_the_names_of_its_versions() -> None:
    assert MEASUREMENT.paired is not None
    unnamed = dataclasses.replace(
        MEASUREMENT, version=MEASUREMENT.digest, paired=dataclasses.replace(MEASUREMENT.paired, reference="p" * 64)
    )
    named = unnamed.named({MEASUREMENT.digest: "duel@7", "p" * 64: "duel@6"})
    assert named.paired is not None
    assert (named.version, named.paired.reference) == ("duel@7", "duel@6")
    assert dataclasses.replace(unnamed, paired=None).named({MEASUREMENT.digest: "duel@7"}).paired is None


@pytest.mark.slow
def test_the_command_measures_versions_side_by_side_and_keeps_what_it_found(
    registry: Registry,
    versions: tuple[Version, Version],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exact, flawed = versions

    def run(*arguments: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
        monkeypatch.setenv("COLUMNS", "220")
        monkeypatch.setattr(sys, "path", list(sys.path))
        options = ["--batch-sizes", "1,4", "--rounds", "8", "--calls", "3", "--repeats", "1"]
        monkeypatch.setattr(
            sys, "argv", ["optimization.measure", *arguments, *options, "--cache-dir", str(tmp_path / "cache")]
        )
        main()
        return capsys.readouterr().out

    said = run(exact.reference, flawed.reference, "--cost-per-hour", "3.6")
    assert "95.33%" in said and "100.00%" in said and "reference" in said and "cost a million" in said
    (found,) = [one for one in read_measurements(registry, flawed) if one.host != HOST]
    assert (found.split, found.rows, found.variant, found.device) == ("gate", 600, "flawed", "cpu")
    assert found.accuracy == pytest.approx(572 / 600)
    assert [batch.batch_size for batch in found.latency.batches] == [1, 4]
    assert found.footprint.size_bytes < 10_000 < found.footprint.peak_bytes
    assert found.cost.per_million_rows == pytest.approx(1000 / found.latency.at(1).rows_per_s, rel=1e-6)
    assert found.paired is not None
    assert found.paired.reference == exact.reference
    assert (found.paired.difference.reference_only, found.paired.difference.candidate_only) == (28, 0)
    assert found.paired.flip_rate == pytest.approx(28 / 600)
    assert found.paired.parity.rows == 512 and found.paired.parity.flips > 15
    assert [delta.worse for delta in found.paired.classes] == [False, True, True]
    (first,) = [one for one in read_measurements(registry, exact) if one.host != HOST]
    assert first.paired is None
    assert first.latency.at(1).p50_ms > found.latency.at(1).p50_ms

    kept = len(read_measurements(registry, exact))
    run(exact.reference, "--split", "report", "--no-log")
    assert len(read_measurements(registry, exact)) == kept
    with pytest.raises(SystemExit, match=r"optimization\.measure: the cost per hour is -1"):
        run(exact.reference, "--cost-per-hour", "-1")
