"""kserve's two clients, as their documentation uses them: URL, gRPC address, model and a file of pixels -> JSON."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, address, model, rows_file = sys.argv[1:]
rows = np.load(rows_file)


def request(binary):
    image = InferInput("image", list(rows.shape), "UINT8")
    image.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model, [image], request_id="7")


async def ask():
    rest = InferenceRESTClient(config=RESTConfig(protocol="v2"))
    answers = {
        form: await rest.infer(url, request(form == "binary"), model_name=model, timeout=30)
        for form in ("binary", "json")
    }
    async with InferenceGRPCClient(address) as stub:
        answers["grpc_raw"] = await stub.infer(request(True))
        answers["grpc_typed"] = await stub.infer(request(False))
        ready = await stub.is_server_ready() and await stub.is_model_ready(model)
    return {
        "live": await rest.is_server_live(url),
        "ready": ready and await rest.is_server_ready(url) and await rest.is_model_ready(url, model),
        "id": answers["binary"].id,
        **{form: answer.outputs[0].as_numpy().tolist() for form, answer in answers.items()},
    }


print(json.dumps(asyncio.run(ask())))
