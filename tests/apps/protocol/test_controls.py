import numpy as np
import pytest

from apps.protocol.controls import read_ask
from apps.protocol.rest import ProtocolError

ROWS = np.zeros((1, 2))


def ask(headers=None, **parameters):
    return read_ask(ROWS, headers or {}, parameters, None)


def test_a_request_that_says_nothing_gets_the_cascade_with_fallback():
    plain = ask()
    assert (plain.mode, plain.allow_fallback, plain.deadline_s, plain.key) == ("cascade", True, None, None)


def test_headers_say_it_all():
    headers = {
        "x-tandem-mode": "teacher",
        "x-tandem-allow-fallback": "False",
        "x-request-timeout-seconds": "0.25",
        "x-tandem-ab-key": "ada",
    }
    asked = ask(headers)
    assert (asked.mode, asked.allow_fallback, asked.deadline_s, asked.key) == ("teacher", False, 0.25, "ada")


def test_parameters_override_headers():
    headers = {"x-tandem-mode": "teacher", "x-request-timeout-seconds": "9"}
    asked = ask(headers, mode="student", deadline_ms=20, allow_fallback=False, ab_key="bob")
    assert (asked.mode, asked.allow_fallback, asked.deadline_s, asked.key) == ("student", False, 0.02, "bob")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "fast"}, "one of cascade, teacher, student"),
        ({"mode": 3}, "one of cascade"),
        ({"mode": ["teacher"]}, "one of cascade"),
        ({"allow_fallback": "no"}, "true or false"),
        ({"allow_fallback": 1}, "true or false"),
        ({"deadline_ms": 0}, "above 0"),
        ({"deadline_ms": -5}, "above 0"),
        ({"deadline_ms": True}, "above 0"),
        ({"deadline_ms": "50"}, "above 0"),
        ({"deadline_ms": 1e12}, "at most 600000"),
        ({"ab_key": ""}, "1 to 256"),
        ({"ab_key": "x" * 257}, "1 to 256"),
        ({"ab_key": 5}, "1 to 256"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_to_send(parameters, message):
    with pytest.raises(ProtocolError, match=message) as caught:
        ask(**parameters)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"x-tandem-mode": "Teacher!"},
        {"x-tandem-allow-fallback": "perhaps"},
        {"x-request-timeout-seconds": "soon"},
        {"x-request-timeout-seconds": "nan"},
        {"x-request-timeout-seconds": "inf"},
        {"x-request-timeout-seconds": "-1"},
    ],
)
def test_a_wrong_header_is_refused(headers):
    with pytest.raises(ProtocolError):
        ask(headers)
