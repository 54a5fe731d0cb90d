import json
import sys
from pathlib import Path

import pytest

from optimization.benchmark.latency import main, random_task

pytestmark = pytest.mark.slow


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["optimization.benchmark.latency", *arguments])
    main()


def test_passes_are_told_beside_the_whole_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--size", "12", "--classes", "7", "--rounds", "6")
    _run(monkeypatch, "resnet20", "--params", '{"mean": [0.4]}', *few, "--amount", "0.5", "--out", str(tmp_path))
    rows = json.loads((tmp_path / "latency-resnet20-12.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["FP32", "INT8", "pruned by 50%", "pruned by 50%, INT8"]
    whole, int8, thin, both = rows
    assert whole["parameters"] == int8["parameters"] > thin["parameters"] == both["parameters"]
    assert whole["size_bytes"] > thin["size_bytes"] > both["size_bytes"]
    assert whole["size_bytes"] > 2 * int8["size_bytes"]
    assert all(speedup["ratio"] > 0 for row in rows for speedup in row["speedups"])
    page = (tmp_path / "latency-resnet20-12.md").read_text()
    assert page == capsys.readouterr().out.partition("# ")[1] + page.removeprefix("# ")
    assert "python -m optimization.benchmark.latency resnet20 --params" in page


def test_an_unknown_network_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="model 'resnet21' is not one of"):
        _run(monkeypatch, "resnet21", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_rows_are_noise_and_always_the_same() -> None:
    one, other = random_task(8, 3), random_task(8, 3)
    assert one.data_hash == other.data_hash
    assert one.splits["gate"].inputs.std() > 50
