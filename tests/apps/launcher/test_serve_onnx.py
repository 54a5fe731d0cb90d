import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from apps.launcher.local import ROOT
from apps.launcher.ports import free_block, reserve_block
from apps.launcher.serve_onnx import ModelError, pack, parser, read_tensors, serve
from optimization.runners.open import open_runner
from tests.tiny import UNSURE, logits, onnx_model


def tiny(folder: Path, offset: float = 0.0) -> Path:
    path = folder / "tiny.onnx"
    path.write_bytes(onnx_model(offset))
    return path


def other(folder: Path, **changes: object) -> Path:
    """A file whose input or output is not what is served."""
    from onnx import TensorProto, helper

    given = {"type": TensorProto.UINT8, "input": ["batch", 1, 2, 2], "output": ["batch", 4], **changes}
    graph = helper.make_graph(
        [helper.make_node("Cast", ["pixels"], ["logits"], to=TensorProto.FLOAT)],
        "other",
        [helper.make_tensor_value_info("pixels", given["type"], given["input"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, given["output"])],
    )
    path = folder / "other.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_a_classifier_is_packed_with_what_its_graph_says(tmp_path: Path) -> None:
    artifact = pack(tiny(tmp_path), tmp_path / "student", "student", "shapes")
    assert artifact.manifest.encoding.labels == ("0", "1", "2")
    np.testing.assert_allclose(open_runner(artifact)(UNSURE[None]), logits(UNSURE[None], 0.0), rtol=1e-6)


def test_classes_are_named_by_a_file_of_labels(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("circle\nsquare\nstar\n")
    assert pack(tiny(tmp_path), tmp_path / "a", "student", "m", labels).manifest.encoding.labels[2] == "star"
    labels.write_text("circle\n")
    with pytest.raises(ModelError, match="names 1 classes"):
        pack(tiny(tmp_path), tmp_path / "b", "student", "m", labels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": 1}, "FLOAT"),
        ({"input": ["batch", 4, 2, 2]}, "1 or 3"),
        ({"input": [1, 1, 2, 2]}, "any size"),
        ({"input": ["batch", 1, "height", "width"]}, r"\[-1, 1, -1, -1\]"),
        ({"output": ["batch", 2, 2]}, "classes"),
        ({"output": ["batch", "classes"]}, "classes"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused_with_its_shapes(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        read_tensors(other(tmp_path, **changes))


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read_tensors(path)
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        serve(parser().parse_args([str(tmp_path / "absent.onnx"), f"--port={free_block(1)}"]))


@pytest.mark.slow
def test_an_onnx_file_is_served_by_one_command_that_ends_with_all_it_started(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Held, or the cluster that the command starts may choose the same port for one of its servers. Its gRPC listens on
    # the port 1,000 above: the last of a block, as the one above it then is, is nobody's choice.
    reservation = reserve_block(200)
    request.addfinalizer(reservation.release)
    port = reservation.first + 199
    command = [sys.executable, "-m", "apps.launcher.serve_onnx", str(tiny(tmp_path)), f"--port={port}", "--name=shapes"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    url = f"http://127.0.0.1:{port}/v2/models/shapes/infer"
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "/v2/models/shapes/infer" in server.stdout.readline()
            tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": UNSURE.reshape(-1).tolist()}
            answer = httpx.post(url, json={"inputs": [tensor]}, trust_env=False, timeout=20)
            assert answer.headers["x-tandem-variant"] == "student"
            np.testing.assert_allclose(answer.json()["outputs"][0]["data"], logits(UNSURE[None], 0.0)[0], rtol=1e-6)
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(60)
    assert status == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
