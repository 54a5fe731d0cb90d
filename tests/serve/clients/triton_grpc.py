"""tritonclient over gRPC, as its documentation uses it: address, model and a file of pixels -> JSON."""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as client

address, model, rows_file, png_file = sys.argv[1:]
rows = np.load(rows_file)
triton = client.InferenceServerClient(address)

image = client.InferInput("image", list(rows.shape), "UINT8")
image.set_data_from_numpy(rows)
plain = triton.infer(model, [image], request_id="7", client_timeout=20)
pinned = triton.infer(
    model, [image], outputs=[client.InferRequestedOutput("logits")], parameters={"mode": "teacher"}, model_version="1"
)
payload = client.InferInput("payload", [1], "BYTES")
payload.set_data_from_numpy(np.array([Path(png_file).read_bytes()], dtype=object))
from_file = triton.infer(model, [payload])
try:
    triton.get_model_metadata("nobody")
    refused = ""
except client.InferenceServerException as error:
    refused = f"{error.status()} {error.message()}"

print(
    json.dumps(
        {
            "live": triton.is_server_live(),
            "ready": triton.is_server_ready() and triton.is_model_ready(model),
            "server": triton.get_server_metadata(as_json=True),
            "metadata": triton.get_model_metadata(model, as_json=True),
            "config": triton.get_model_config(model, as_json=True)["config"],
            "statistics": triton.get_inference_statistics(model, as_json=True),
            "id": plain.get_response().id,
            "binary": plain.as_numpy("logits").tolist(),
            "json": pinned.as_numpy("logits").tolist(),
            "variant": pinned.get_response().parameters["variant"].string_param,
            "payload": from_file.as_numpy("logits").tolist(),
            "refused": refused,
        }
    )
)
