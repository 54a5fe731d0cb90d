"""API keys, and the file that knows them by their hashes.

A key is `tandem_<id>_<secret>`. The id is public: it finds the record, so that only one hash is compared. The secret
has 256 random bits, and that is why a plain SHA-256 is kept of it: slow hashes make the guessing of passwords dear,
and 2**256 secrets are beyond guessing however fast the hash is.
"""

import hashlib
import re
import secrets
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

MAX_KEYS = 10_000
MAX_FILE_BYTES = 8_000_000
_KEY = re.compile(r"tandem_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")

KeyName = Annotated[str, StringConstraints(pattern=r"^[\w.\-]{1,64}$")]


class KeyRecord(BaseModel):
    """What is known of one key. `rate_per_s` None: no limit; `models` None: every model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: KeyName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    rate_per_s: float | None = Field(default=None, gt=0)
    burst: int | None = Field(default=None, ge=1)
    models: tuple[KeyName, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.burst is not None and self.rate_per_s is None:
            raise ValueError(f"key {self.name!r} has burst {self.burst} without a rate: give a rate too")
        return self


class KeyFile(BaseModel):
    """The file's content. Ids and names are unique."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = Field(default=(), max_length=MAX_KEYS)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for what in ("id", "name"):
            for value, times in Counter(getattr(record, what) for record in self.keys).most_common(1):
                if times > 1:
                    raise ValueError(f"the {what} {value!r} is there {times} times: give each key its own")
        return self


def parse_keys(content: bytes, source: str) -> KeyFile:
    """The content of a key file; raises ValueError that names `source` and never shows a hash."""
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{source} has {len(content)} bytes; a key file has at most {MAX_FILE_BYTES}")
    try:
        return KeyFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise ValueError(f"{source} is no file of API keys: {where}: {first['msg']}; see apps/access/keys.py") from None


def new_key(
    name: str,
    *,
    rate_per_s: float | None = None,
    burst: int | None = None,
    models: tuple[str, ...] | None = None,
) -> tuple[str, KeyRecord]:
    """A fresh key and its record; the key itself is kept nowhere. Raises ValueError."""
    key_id = secrets.token_hex(4)
    key = f"tandem_{key_id}_{secrets.token_urlsafe(32)}"
    record = KeyRecord(
        id=key_id,
        name=name,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        created=datetime.now(UTC).replace(microsecond=0),
        rate_per_s=rate_per_s,
        burst=burst,
        models=models,
    )
    return key, record


def id_of(key: str) -> str | None:
    """The public part of what may be a key; None for what cannot be one."""
    match = _KEY.fullmatch(key)
    return None if match is None else match.group(1)
