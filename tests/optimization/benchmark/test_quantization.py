import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from optimization.benchmark.quantization import choices, main
from optimization.quantize.choice import NoQuantization
from optimization.quantize.static import StaticInt8
from tests.toys import images
from training.models.architecture import Architecture, build
from training.task import Source


def test_not_to_quantize_competes_and_so_do_both_types_of_activations() -> None:
    compared = choices(keep=2)
    assert next(iter(compared.values())) == NoQuantization()
    types = {choice.activation_type for choice in compared.values() if isinstance(choice, StaticInt8)}
    assert types == {"uint8", "int8"}
    assert {choice.calibrator for choice in compared.values() if isinstance(choice, StaticInt8)} == {
        *("minmax", "entropy", "percentile"),
    }


@pytest.mark.slow
def test_every_way_is_measured_against_the_float_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"widths": [8, 16]}
    module = build(Architecture("convnet", params), images(Source()).encoding)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    arguments = ["convnet", "--params", json.dumps(params), "--weights", str(tmp_path / "weights.safetensors")]
    arguments += ["--task", "tests.toys:images", "--rounds", "6", "--keep", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["quantization", *arguments])
    main()
    figures = json.loads((tmp_path / "out" / "quantization-convnet.json").read_text())
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == list(choices(keep=1))
    assert rows["FP32"]["flips"] == 0 and rows["FP32"]["paired"]["difference"] == 0
    assert all(row["paired"]["rows"] == 60 for row in rows.values())
    assert rows["INT8 min-max"]["size_bytes"] != rows["FP32"]["size_bytes"]
    assert figures["mixed"]["kept"][0]["weight"] in {
        one["layer"]["weight"] for one in figures["mixed"]["sensitivities"]
    }
    assert figures["host"]["threads"] == 1
    told = (tmp_path / "out" / "quantization-convnet.md").read_text()
    assert all(f"| {name} |" in told for name in rows)
    assert "60 rows of the gate split, ranges from 18 rows of the calibration split" in told
    assert (tmp_path / "out" / "quantization-convnet.png").stat().st_size > 1000


def test_weights_that_do_not_fit_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["convnet", "--params", '{"widths": [8]}', "--weights", str(tmp_path / "none.safetensors")]
    arguments += ["--task", "tests.toys:images", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["quantization", *arguments])
    with pytest.raises(SystemExit, match=r"optimization\.benchmark\.quantization: no weights at"):
        main()
    assert not (tmp_path / "out").exists()
