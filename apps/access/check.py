"""Access: who may ask which model, and how often. The same check stands before REST and gRPC."""

import base64
import binascii
import hashlib
import hmac
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from apps.access.file import MAX_FILE_BYTES, KeyRecord, id_of, parse_keys
from apps.access.rate_limit import TokenBucket

logger = logging.getLogger("ray.serve")

# A changed key file is seen within this time.
RELOAD_S = 1.0
# A key has 59 characters; with a user's name before it in base64 it is still far below.
_MAX_CREDENTIAL_CHARACTERS = 512
_ADVICE = "send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"


class AccessArgs(BaseModel):
    """Who may use the endpoint: the keys in `keys_file`, or in the environment variable that `keys_env` names.

    `ingress_replicas`: each replica counts for itself, and grants this fraction of a key's rate and burst.
    """

    model_config = ConfigDict(extra="forbid")

    keys_file: str | None = None
    keys_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    ingress_replicas: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.keys_file is None) == (self.keys_env is None):
            raise ValueError("access takes its keys from one place: give either keys_file or keys_env")
        if self.keys_file is not None and not Path(self.keys_file).expanduser().is_absolute():
            raise ValueError(f"keys_file is {self.keys_file!r}: give an absolute path, replicas run in other folders")
        return self


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of a key. Fit for logs and metrics, as it holds no secret."""

    name: str


class AccessError(Exception):
    """A request that is turned away: 401 (no or unknown key), 403 (model not allowed) or 429 (too often)."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP asks to go with the status. A browser understands Basic, and asks its user for the key."""
        if self.status == 401:
            return {"WWW-Authenticate": 'Bearer realm="tandem", Basic realm="tandem", charset="UTF-8"'}
        if self.retry_after_s is not None:
            return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return {}


class KeySource(Protocol):
    """Where the content of a key file comes from. `stamp` differs whenever the content may have changed."""

    def stamp(self) -> object: ...

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class FileSource:
    path: Path

    def stamp(self) -> object:
        # Of what a link points to: a mounted secret is changed by turning its link.
        status = self.path.stat()
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class EnvironmentSource:
    variable: str

    def stamp(self) -> object:
        return None

    def read(self) -> bytes:
        content = os.environ.get(self.variable)
        if content is None:
            raise FileNotFoundError(f"the environment has no {self.variable}")
        return content.encode()

    def __str__(self) -> str:
        return f"the environment's {self.variable}"


@dataclass(frozen=True, slots=True)
class _Entry:
    record: KeyRecord
    digest: bytes
    bucket: TokenBucket | None


class Access:
    """The keys in service, and how much of its rate each has left here. One a replica, used from its event loop."""

    def __init__(self, source: KeySource, replicas: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError where the keys cannot be read: an endpoint that should be closed must not open."""
        self._source = source
        self._replicas = replicas
        self._clock = clock
        # Compared with where an id is unknown, so that this takes as long as for a known one.
        self._nobody = secrets.token_bytes(32)
        try:
            self._stamp = source.stamp()
            self._entries = self._load({})
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the API keys cannot be read: {error}; make them with python -m apps.access.keys new"
            ) from error
        self._looked_at_s = clock()

    def check(self, headers: Mapping[str, str], model: str | None) -> Caller:
        """The caller whose key is in `headers` (names in lower case); `model` None for what is of no model.

        Takes one request off the key's rate. Raises AccessError.
        """
        if self._clock() - self._looked_at_s >= RELOAD_S:
            self._reload()
        entry = self._find(read_key(headers))
        record = entry.record
        if model is not None and record.models is not None and model not in record.models:
            raise AccessError(403, f"the key {record.name!r} may not use model {model[:80]!r}")
        wait_s = 0.0 if entry.bucket is None else entry.bucket.take()
        if wait_s > 0:
            raise AccessError(429, f"the key {record.name!r} has used up its rate; wait {wait_s:.3f} s", wait_s)
        return Caller(record.name)

    def _find(self, key: str | None) -> _Entry:
        if key is None:
            raise AccessError(401, f"this endpoint needs an API key; {_ADVICE}")
        key_id = id_of(key)
        entry = None if key_id is None else self._entries.get(key_id)
        digest = hashlib.sha256(key.encode(errors="replace")).digest()
        known = hmac.compare_digest(digest, self._nobody if entry is None else entry.digest)
        if entry is None or not known:
            raise AccessError(401, f"the API key is not known here; {_ADVICE}")
        return entry

    def _reload(self) -> None:
        """Take up changed keys. A file that cannot be read leaves the keys as they are, and is logged once."""
        self._looked_at_s = self._clock()
        try:
            stamp = self._source.stamp()
        except OSError as error:
            stamp = repr(error)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = self._load(self._entries)
        except (OSError, ValueError) as error:
            logger.error("the API keys stay as they were, because they cannot be read again: %s", error)
        else:
            logger.info("took up %d API keys from %s", len(self._entries), self._source)

    def _load(self, before: Mapping[str, _Entry]) -> dict[str, _Entry]:
        keys = parse_keys(self._source.read(), str(self._source)).keys
        return {
            record.id: _Entry(record, bytes.fromhex(record.sha256), self._bucket(record, before.get(record.id)))
            for record in keys
        }

    def _bucket(self, record: KeyRecord, before: _Entry | None) -> TokenBucket | None:
        if record.rate_per_s is None:
            return None
        rate_per_s = record.rate_per_s / self._replicas
        burst = max(1.0, (record.burst or math.ceil(record.rate_per_s)) / self._replicas)
        old = None if before is None else before.bucket
        # Another key's change must not fill this one's bucket.
        if old is not None and (old.rate_per_s, old.burst) == (rate_per_s, burst):
            return old
        return TokenBucket(rate_per_s, burst, self._clock)


def open_access(args: AccessArgs | None) -> Access | None:
    """None where no keys are asked for; raises ValueError where they are and cannot be read."""
    if args is None:
        return None
    source: KeySource
    if args.keys_file is not None:
        source = FileSource(Path(args.keys_file).expanduser())
    else:
        source = EnvironmentSource(args.keys_env or "")
    return Access(source, args.ingress_replicas)


def read_key(headers: Mapping[str, str]) -> str | None:
    """What is given as a key: `x-api-key`, else a Bearer token, else the password of Basic; None where there is none.

    `x-api-key` goes first: where a proxy in front keeps `Authorization` for itself, it is the one that is meant.
    """
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, credential = headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() == "bearer":
            key = credential
        elif scheme.lower() == "basic" and len(credential) <= _MAX_CREDENTIAL_CHARACTERS:
            key = _password(credential.strip())
    key = None if key is None or len(key) > _MAX_CREDENTIAL_CHARACTERS else key.strip()
    return key or None


def _password(credential: str) -> str | None:
    try:
        text = base64.b64decode(credential, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text.partition(":")[2]
