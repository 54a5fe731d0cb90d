import json

import pytest

from apps.protocol.metadata import model_config, model_metadata, server_metadata
from training.encoding import TensorSpec

IMAGE = TensorSpec("image", "UINT8", (-1, 1, 8, 8))
LOGITS = TensorSpec("logits", "FP32", (-1, 10))


def test_server_metadata_names_the_extensions_that_clients_look_for() -> None:
    assert server_metadata("1.2") == {
        "name": "tandem",
        "version": "1.2",
        "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
    }


def test_model_metadata_holds_the_batch_axis() -> None:
    metadata = json.loads(json.dumps(model_metadata("digits", ["3", "2"], "tandem", [IMAGE], [LOGITS])))
    assert "BYTES" in metadata.pop("properties")["payload"]
    assert metadata == {
        "name": "digits",
        "versions": ["3", "2"],
        "platform": "tandem",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }


def test_model_config_leaves_the_batch_axis_out() -> None:
    config = json.loads(json.dumps(model_config("digits", "onnxruntime_onnx", 16, [IMAGE], [LOGITS])))
    assert config["max_batch_size"] == 16
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [1, 8, 8]}]
    assert config["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}]
    assert (config["name"], config["platform"], config["backend"]) == ("digits", "onnxruntime_onnx", "tandem")


def test_model_config_refuses_a_model_that_takes_no_row() -> None:
    with pytest.raises(ValueError, match="max_batch_size is 0"):
        model_config("digits", "tandem", 0, [IMAGE], [LOGITS])
