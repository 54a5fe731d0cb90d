"""A model of any datatype is asked over REST, in JSON and in binary, and over gRPC, and gets the very same numbers."""

import asyncio

import httpx
import numpy as np
import orjson
import pytest

from apps.backends.backend import GuardedBackend
from apps.backends.breaker import Breaker
from apps.endpoint import Endpoint
from apps.protocol import grpc_protocol_pb2 as pb
from apps.protocol.grpc_codec import CONTENTS_OF_DATATYPE
from apps.protocol.grpc_servicer import Servicer
from apps.protocol.rest import HEADER_LENGTH
from apps.router import Arm, Patience, Router
from apps.service import Service
from apps.web import build_app
from tests.apps.protocol.test_grpc_servicer import Call
from training.encoding import NUMPY_OF_DATATYPE, Encoder, ImageEncoding, TensorSpec

ENCODER = Encoder(ImageEncoding(height=1, width=3, channels=1, labels=("a", "b", "c")))


class Kept:
    """Answers its rows as numbers and keeps them."""

    def __init__(self):
        self.rows = []

    async def infer(self, rows, timeout_s):
        self.rows.append(rows)
        return rows.astype(np.float32)


class Toy(Service):
    """A Service of a model that takes another datatype than an Encoding's."""

    datatype = ""

    @property
    def inputs(self):
        return (TensorSpec("x", self.datatype, (-1, 3)),)


def toy(datatype):
    model = Kept()
    arm = Arm(1, 1.0, 1.0, 0.0, model, GuardedBackend(model, Breaker(), 0.0))
    kind = type("ToyOfDatatype", (Toy,), {"datatype": datatype})
    return kind("toy", ENCODER, Router([arm], Patience(0.04, 0.01, 5.0))), model


def ask_rest(service, entry, tail=b""):
    text = orjson.dumps({"inputs": [entry]})

    async def send():
        transport = httpx.ASGITransport(build_app(Endpoint({"toy": service})))
        async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
            headers = {HEADER_LENGTH: str(len(text))} if tail else {}
            return await client.post("/v2/models/toy/infer", content=text + tail, headers=headers)

    response = asyncio.run(send())
    assert response.status_code == 200, response.text


def ask_grpc(service, message):
    call = Call()
    asyncio.run(Servicer(Endpoint({"toy": service})).model_infer(message, call))
    assert call.code is None, call.details


@pytest.mark.parametrize("datatype", NUMPY_OF_DATATYPE)
def test_a_model_gets_what_its_spec_declares_over_both_protocols(datatype):
    values = np.array([[1, 0, 1], [0, 1, 1]], NUMPY_OF_DATATYPE[datatype])
    if values.dtype.kind == "f":
        values[0, 0] = 0.5
    service, model = toy(datatype)
    entry = {"name": "x", "datatype": datatype, "shape": [2, 3]}
    ask_rest(service, {**entry, "data": values.ravel().tolist()})
    ask_rest(service, {**entry, "parameters": {"binary_data_size": values.nbytes}}, values.tobytes())
    raw = pb.ModelInferRequest(model_name="toy", raw_input_contents=[values.tobytes()])
    raw.inputs.add(**entry)
    ask_grpc(service, raw)
    if datatype in CONTENTS_OF_DATATYPE:
        typed = pb.ModelInferRequest(model_name="toy")
        contents = typed.inputs.add(**entry).contents
        getattr(contents, CONTENTS_OF_DATATYPE[datatype]).extend(values.ravel().tolist())
        ask_grpc(service, typed)
    assert len(model.rows) == (4 if datatype in CONTENTS_OF_DATATYPE else 3)
    for rows in model.rows:
        assert rows.dtype == values.dtype
        np.testing.assert_array_equal(rows, values)
