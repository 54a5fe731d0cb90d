"""What the Open Inference Protocol V2 says about a server and its models, as JSON-ready dicts."""

from collections.abc import Sequence
from typing import Any

from apps.protocol.request import MAX_PAYLOADS, PAYLOAD
from training.encoding import TensorSpec

SERVER_NAME = "tandem"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
# A client sends every input that metadata lists, and would send this one beside the tensor: so it is told of apart.
PROPERTIES = {
    PAYLOAD: "BYTES [-1]: sent in place of the inputs, the text or the PNG or JPEG file of each row itself, "
    f"at most {MAX_PAYLOADS} in one request"
}


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to GET /v2. `version` is that of the installed distribution."""
    return {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}. Shapes hold the batch axis first; -1 is a dynamic axis."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [_described(spec) for spec in inputs],
        "outputs": [_described(spec) for spec in outputs],
        "properties": dict(PROPERTIES),
    }


def model_config(
    name: str,
    platform: str,
    max_batch_size: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    backend: str = SERVER_NAME,
) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}/config, in the fields of Triton's ModelConfig.

    `max_batch_size` is the largest number of rows in one request, at least 1: that the model batches at all
    is what tells a reader of ModelConfig that `dims` leave the batch axis out.
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size is {max_batch_size}; a model here takes at least 1 row")
    return {
        "name": name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": max_batch_size,
        "input": [_configured(spec) for spec in inputs],
        "output": [_configured(spec) for spec in outputs],
        "dynamic_batching": {},
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape[1:])}
