"""tritonclient over HTTP, as its documentation uses it: URL, model and a file of pixels -> JSON on standard output."""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as client

url, model, rows_file, png_file = sys.argv[1:]
rows = np.load(rows_file)
triton = client.InferenceServerClient(url.removeprefix("http://"))

image = client.InferInput("image", list(rows.shape), "UINT8")
image.set_data_from_numpy(rows)
as_binary = triton.infer(model, [image], request_id="7")
image.set_data_from_numpy(rows, binary_data=False)
outputs = [client.InferRequestedOutput("logits", binary_data=False)]
as_json = triton.infer(model, [image], outputs=outputs, parameters={"mode": "teacher"})
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
            "server": triton.get_server_metadata(),
            "metadata": triton.get_model_metadata(model),
            "config": triton.get_model_config(model),
            "statistics": triton.get_inference_statistics(model),
            "id": as_binary.get_response()["id"],
            "binary": as_binary.as_numpy("logits").tolist(),
            "json": as_json.as_numpy("logits").tolist(),
            "variant": as_json.get_response()["parameters"]["variant"],
            "payload": from_file.as_numpy("logits").tolist(),
            "refused": refused,
        }
    )
)
