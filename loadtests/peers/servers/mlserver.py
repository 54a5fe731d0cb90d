"""The model behind MLServer: a custom runtime on the V2 protocol."""

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import Base64Codec, NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

from loadtests.peers.servers.session import image_of, open_session, run


class Model(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._session = open_session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = payload.inputs[0]
        if image.datatype == "BYTES":
            images_BCHW = np.stack([image_of(body) for body in Base64Codec.decode_input(image)])
        else:
            images_BCHW = NumpyCodec.decode_input(image)
        output = NumpyCodec.encode_output("logits", run(self._session, images_BCHW))
        return InferenceResponse(model_name=self.name, outputs=[output])
