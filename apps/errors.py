"""What a client is told when its request fails: one status and one sentence, whatever the protocol."""

import math
from dataclasses import dataclass, field

from apps.access.check import AccessError
from apps.protocol.tensors import ProtocolError
from apps.refusal import RefusedError
from apps.router import UnknownReleaseError
from training.encoding import PayloadError

STATUS_OF_REFUSAL = {"overload": 503, "unavailable": 503, "timeout": 504}


class UnknownModelError(LookupError):
    """A request for a model that is not served."""


@dataclass(frozen=True)
class Failure:
    """`status` is an HTTP status; `headers` go with it."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


EXPECTED = (ProtocolError, PayloadError, RefusedError, AccessError, UnknownModelError, UnknownReleaseError)


def failure_of(error: BaseException) -> Failure:
    """The Failure of an error that a request may meet; of any other 500, without showing the inside of the server."""
    if isinstance(error, ProtocolError):
        return Failure(error.status, str(error))
    if isinstance(error, PayloadError):
        return Failure(400, str(error))
    if isinstance(error, AccessError):
        return Failure(error.status, str(error), error.headers)
    if isinstance(error, UnknownModelError | UnknownReleaseError):
        return Failure(404, str(error))
    if isinstance(error, RefusedError):
        status = STATUS_OF_REFUSAL[error.refused.reason]
        retry = {"Retry-After": str(max(1, math.ceil(error.refused.wait_s)))} if status == 503 else {}
        return Failure(status, error.refused.detail, retry)
    return Failure(500, "an unforeseen error; the server's log has it")
