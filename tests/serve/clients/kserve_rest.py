"""kserve's InferenceRESTClient, as its documentation uses it: URL, model and a file of pixels -> JSON."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, model, rows_file = sys.argv[1:]
rows = np.load(rows_file)


def request(binary):
    image = InferInput("image", list(rows.shape), "UINT8")
    image.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model, [image], request_id="7")


async def ask():
    client = InferenceRESTClient(config=RESTConfig(protocol="v2", verbose=False))
    answers = {form: await client.infer(url, request(form == "binary")) for form in ("binary", "json")}
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url) and await client.is_model_ready(url, model),
        "id": answers["binary"].id,
        **{form: answer.outputs[0].as_numpy().tolist() for form, answer in answers.items()},
    }


print(json.dumps(asyncio.run(ask())))
