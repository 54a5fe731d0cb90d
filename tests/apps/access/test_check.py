"""Access: who gets in, who is told what, and that a changed key file counts without a restart."""

import base64
import logging
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from apps.access.check import (
    Access,
    AccessArgs,
    AccessError,
    Caller,
    EnvironmentSource,
    FileSource,
    open_access,
    read_key,
)
from apps.access.file import KeyFile, new_key
from apps.access.keys import add, change_file, remove

BOUNDED = settings(max_examples=200, deadline=None, database=None, derandomize=True)


class Office:
    """A key file, the keys that were given out, and the Access that reads it, on a clock that the test sets."""

    def __init__(self, folder, clock, replicas=1):
        self.path = folder / "keys.json"
        self.keys = {}
        self.clock = clock
        for name, limits in {"ada": {}, "slow": {"rate_per_s": 2.0, "burst": 4}, "one": {"models": ("tiny",)}}.items():
            self.give(name, **limits)
        self.access = Access(FileSource(self.path), replicas, clock)

    def give(self, name, **limits):
        self.keys[name], record = new_key(name, **limits)
        change_file(self.path, lambda keys: add(keys, record))

    def revoke(self, name):
        change_file(self.path, lambda keys: remove(keys, name))

    def check(self, name, model=None):
        return self.access.check({"authorization": f"Bearer {self.keys[name]}"}, model)

    def refused(self, headers, model=None):
        with pytest.raises(AccessError) as refused:
            self.access.check(headers, model)
        return refused.value


@pytest.fixture
def office(tmp_path, clock):
    return Office(tmp_path, clock)


def test_a_key_is_taken_from_either_header(office):
    key = office.keys["ada"]
    basic = base64.b64encode(f"anyone:{key}".encode()).decode()
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        {"authorization": f"Basic {basic}"},
        {"x-api-key": key},
        {"x-api-key": key, "authorization": "Bearer something-of-a-proxy"},
    ):
        assert office.access.check(headers, "tiny") == Caller("ada")


def test_no_key_and_an_unknown_key_get_401_and_are_told_how_to_send_one(office):
    good = office.keys["ada"]
    other = new_key("ada")[0]
    near = good[:-1] + ("A" if good[-1] != "A" else "B")
    same_id = good[:16] + other[16:]
    for headers in (
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": good},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + "A" * 100_000},
        {"x-api-key": ""},
        {"x-api-key": "x" * 100_000},
        {"x-api-key": other},
        {"x-api-key": near},
        {"x-api-key": same_id},
        {"x-api-key": good + "\n" + good},
        {"x-api-key": good.upper()},
        {"x-api-key": "ключ"},
    ):
        error = office.refused(headers)
        assert error.status == 401
        assert "Bearer" in error.headers["WWW-Authenticate"]
        assert "x-api-key" in str(error)
        assert not any(len(value) > 10 and value in str(error) for value in headers.values())


def test_a_limited_key_gets_429_and_when_to_come_back(office):
    for _ in range(4):
        office.check("slow")
    error = office.refused({"x-api-key": office.keys["slow"]})
    assert (error.status, error.headers) == (429, {"Retry-After": "1"})
    assert error.retry_after_s == pytest.approx(0.5)
    office.check("ada")
    office.clock.now_s += 0.51
    assert office.check("slow") == Caller("slow")


def test_a_key_for_one_model_gets_403_for_another(office):
    assert office.check("one", "tiny") == office.check("one", None) == Caller("one")
    error = office.refused({"x-api-key": office.keys["one"]}, "digits")
    assert (error.status, error.headers) == (403, {})
    assert "'digits'" in str(error)


def test_a_changed_file_counts_after_a_second_and_is_looked_at_no_more_often(office, monkeypatch):
    looked = []
    monkeypatch.setattr(FileSource, "stamp", lambda self: looked.append(1) or os.stat_result(self.path.stat()))
    office.revoke("ada")
    office.give("eve")
    assert office.check("ada") == Caller("ada")
    assert not looked
    office.clock.now_s += 1.0
    assert office.check("eve") == Caller("eve")
    assert office.refused({"x-api-key": office.keys["ada"]}).status == 401
    for _ in range(100):
        office.check("eve")
    assert len(looked) == 1


def test_another_keys_change_fills_no_bucket(office):
    for _ in range(4):
        office.check("slow")
    office.clock.now_s += 0.25
    office.give("eve")
    office.access._looked_at_s = -10.0
    assert office.refused({"x-api-key": office.keys["slow"]}).status == 429
    office.check("eve")


def test_a_file_that_breaks_or_vanishes_leaves_the_keys_as_they_were(office, caplog):
    logging.getLogger("ray.serve").propagate = True
    for damage in (lambda: office.path.write_text("{"), office.path.unlink):
        damage()
        with caplog.at_level(logging.ERROR, "ray.serve"):
            caplog.clear()
            for _ in range(5):
                office.clock.now_s += 1.5
                assert office.check("ada") == Caller("ada")
        # Ray may have given this logger a handler twice: the same record then comes twice.
        assert len(set(map(id, caplog.records))) == 1
    office.give("eve")
    office.clock.now_s += 1.5
    assert office.check("eve") == Caller("eve")
    assert office.refused({"x-api-key": office.keys["ada"]}).status == 401


def test_an_endpoint_whose_keys_cannot_be_read_does_not_open(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"apps\.access\.keys new"):
        open_access(AccessArgs(keys_file=str(tmp_path / "none.json")))
    monkeypatch.delenv("TANDEM_KEYS", raising=False)
    with pytest.raises(ValueError, match="TANDEM_KEYS"):
        open_access(AccessArgs(keys_env="TANDEM_KEYS"))


def test_keys_may_come_from_the_environment(monkeypatch):
    key, record = new_key("ada")
    monkeypatch.setenv("TANDEM_KEYS", KeyFile(keys=(record,)).model_dump_json())
    access = open_access(AccessArgs(keys_env="TANDEM_KEYS"))
    assert access.check({"x-api-key": key}, None) == Caller("ada")
    assert EnvironmentSource("TANDEM_KEYS").stamp() == EnvironmentSource("TANDEM_KEYS").stamp()


def test_without_the_section_there_is_no_access_control():
    assert open_access(None) is None


@pytest.mark.parametrize(
    "args",
    [{}, {"keys_file": "keys.json"}, {"keys_file": "/k", "keys_env": "K"}, {"keys_env": "A B"}, {"key_file": "/k"}],
)
def test_a_section_that_names_no_one_place_is_refused(args):
    with pytest.raises(ValidationError):
        AccessArgs(**args)


def test_a_limit_is_shared_among_the_ingress_replicas(tmp_path, clock):
    office = Office(tmp_path, clock, replicas=2)
    passed = 0
    for _ in range(1_000):
        clock.now_s += 0.01
        try:
            office.check("slow")
            passed += 1
        except AccessError:
            pass
    # Half of 2/s for 10 s, and half of the burst of 4.
    assert passed == pytest.approx(10 + 2, abs=1)


def test_a_check_takes_microseconds(office):
    headers = {"x-api-key": office.keys["ada"]}
    rounds = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(100):
            office.access.check(headers, "tiny")
        rounds.append((time.perf_counter() - started) / 100)
    assert min(rounds) < 50e-6


@BOUNDED
@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key", "other"]), st.text(max_size=700)))
def test_whatever_the_headers_hold_a_key_is_short_text_or_none(headers):
    key = read_key(headers)
    assert key is None or (0 < len(key) <= 512 and key == key.strip())


@BOUNDED
@given(
    st.sampled_from(["Bearer ", "bearer\t", "Basic ", "Digest ", ""]),
    st.one_of(
        st.text(max_size=90),
        st.binary(max_size=90).map(lambda value: base64.b64encode(value).decode()),
        st.from_regex(r"tandem_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", fullmatch=True),
    ),
)
def test_no_made_up_key_gets_in_and_none_breaks_the_check(scheme, credential):
    _, record = new_key("ada")
    content = KeyFile(keys=(record,)).model_dump_json().encode()

    class Memory:
        def stamp(self):
            return None

        def read(self):
            return content

    access = Access(Memory())
    for headers in ({"authorization": scheme + credential}, {"x-api-key": credential}):
        with pytest.raises(AccessError) as refused:
            access.check(headers, "tiny")
        assert refused.value.status == 401
        assert len(credential) < 20 or credential not in str(refused.value)
