"""Controls: what a client may say about how its request is answered, in V2 parameters or in headers."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from apps.protocol.rest import ProtocolError
from apps.router import Ask, Mode
from training.encoding import Array

MODE_HEADER = "x-tandem-mode"
FALLBACK_HEADER = "x-tandem-allow-fallback"
TIMEOUT_HEADER = "x-request-timeout-seconds"
KEY_HEADER = "x-tandem-ab-key"

MAX_KEY_CHARACTERS = 256
MAX_DEADLINE_S = 600.0


def read_ask(rows_B: Array, headers: Mapping[str, str], parameters: Mapping[str, Any], release: int | None) -> Ask:
    """An Ask from the request's headers, which V2 `parameters` override; raises ProtocolError."""
    mode = parameters.get("mode", headers.get(MODE_HEADER, "cascade"))
    if mode not in get_args(Mode):
        raise ProtocolError(f"mode is {_short(mode)}; send one of {', '.join(get_args(Mode))}")
    key = parameters.get("ab_key", headers.get(KEY_HEADER))
    if key is not None and (not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARACTERS):
        raise ProtocolError(f"ab_key is {_short(key)}; send a string of 1 to {MAX_KEY_CHARACTERS} characters")
    return Ask(rows_B, mode, _allow_fallback(headers, parameters), _deadline_s(headers, parameters), key, release)


def _allow_fallback(headers: Mapping[str, str], parameters: Mapping[str, Any]) -> bool:
    value = parameters.get("allow_fallback")
    if value is None:
        text = headers.get(FALLBACK_HEADER, "true").strip().lower()
        value = {"true": True, "1": True, "false": False, "0": False}.get(text, text)
    if not isinstance(value, bool):
        raise ProtocolError(f"allow_fallback is {_short(value)}; send true or false")
    return value


def _deadline_s(headers: Mapping[str, str], parameters: Mapping[str, Any]) -> float | None:
    value, scale, name = parameters.get("deadline_ms"), 1e-3, "parameter deadline_ms"
    if value is None:
        value, scale, name = headers.get(TIMEOUT_HEADER), 1.0, f"header {TIMEOUT_HEADER}"
        if value is None:
            return None
        try:
            value = float(value)
        except ValueError:
            value = math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value * scale <= MAX_DEADLINE_S:
        raise ProtocolError(f"{name} is {_short(value)}; send a number above 0, at most {MAX_DEADLINE_S / scale:.0f}")
    return value * scale


def _short(value: object) -> str:
    return repr(value)[:80]
