"""Headers and parameters that control a request: whatever they hold, the result is an Ask within bounds or a 400."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.protocol.controls import (
    FALLBACK_HEADER,
    KEY_HEADER,
    MAX_DEADLINE_S,
    MAX_KEY_CHARACTERS,
    MODE_HEADER,
    TIMEOUT_HEADER,
    read_ask,
)
from apps.protocol.rest import ProtocolError

BOUNDED = settings(max_examples=150, deadline=None, database=None, derandomize=True)
ROWS = np.zeros((1, 1, 2, 2), np.uint8)

# As ASGI gives them: any Latin-1 text.
VALUES = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=300),
    st.sampled_from(["cascade", "teacher", "true", "FALSE", " 1 ", "0", "nan", "inf", "-1", "1e-300", "1e309", "0x10"]),
    st.floats().map(str),
    st.integers().map(str),
)
# As JSON gives them: `parse_infer` lets scalars through, and drops null.
SCALARS = st.one_of(st.text(max_size=300), st.floats(), st.integers(), st.booleans(), VALUES)


@BOUNDED
@given(
    st.dictionaries(st.sampled_from([MODE_HEADER, FALLBACK_HEADER, TIMEOUT_HEADER, KEY_HEADER]), VALUES),
    st.dictionaries(st.sampled_from(["mode", "allow_fallback", "deadline_ms", "ab_key", "other"]), SCALARS),
)
def test_an_ask_is_within_its_bounds_or_the_request_is_refused(headers, parameters):
    try:
        ask = read_ask(ROWS, headers, parameters, None)
    except ProtocolError as error:
        assert error.status == 400
        assert len(str(error)) < 400
        return
    assert ask.mode in ("cascade", "teacher", "student")
    assert isinstance(ask.allow_fallback, bool)
    assert ask.key is None or 0 < len(ask.key) <= MAX_KEY_CHARACTERS
    assert ask.deadline_s is None or (0 < ask.deadline_s <= MAX_DEADLINE_S and math.isfinite(ask.deadline_s))


@BOUNDED
@given(st.dictionaries(st.sampled_from([MODE_HEADER, FALLBACK_HEADER, TIMEOUT_HEADER, KEY_HEADER]), VALUES))
def test_a_parameter_goes_before_its_header(headers):
    parameters = {"mode": "student", "allow_fallback": False, "deadline_ms": 20, "ab_key": "me"}
    ask = read_ask(ROWS, headers, parameters, 3)
    assert (ask.mode, ask.allow_fallback, ask.deadline_s, ask.key) == ("student", False, 0.02, "me")
