"""The key file and the command that writes it: keys shown once, hashed at rest, changed in one step."""

import json
import stat
import threading

import pytest

from apps.access.file import KeyFile, id_of, new_key, parse_keys
from apps.access.keys import add, change_file, main, read_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "secret" / "keys.json"


def run(path, *arguments):
    return main(["--file", str(path), *arguments])


def test_a_new_key_is_printed_once_and_only_its_hash_is_kept(path, capsys):
    assert run(path, "new", "ada", "--rate", "50", "--burst", "100", "--model", "digits") == 0
    key = capsys.readouterr().out.strip()
    assert id_of(key) is not None
    assert key not in path.read_text()
    assert key.split("_", 2)[2] not in path.read_text()  # the secret may hold further underscores
    (record,) = read_file(path).keys
    assert (record.name, record.rate_per_s, record.burst, record.models) == ("ada", 50, 100, ("digits",))
    assert run(path, "list") == 0
    listed = capsys.readouterr().out
    assert "ada" in listed
    assert "50/s" in listed
    assert record.sha256 not in listed


def test_the_file_is_its_owners_alone_and_nothing_else_is_left_behind(path):
    for name in ("ada", "bob"):
        run(path, "new", name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {item.name for item in path.parent.iterdir()} == {"keys.json", ".keys.json.lock"}


def test_a_revoked_key_is_gone_and_its_name_free_again(path, capsys):
    run(path, "new", "ada")
    first = read_file(path).keys[0].id
    assert run(path, "new", "ada") == 1
    assert "already" in capsys.readouterr().err
    assert run(path, "revoke", "ada") == 0
    assert read_file(path).keys == ()
    assert run(path, "revoke", "ada") == 1
    assert "no key 'ada'" in capsys.readouterr().err
    run(path, "new", "ada")
    assert read_file(path).keys[0].id != first


@pytest.mark.parametrize(
    "arguments",
    [("new", "a b"), ("new", "x" * 65), ("new", "a", "--rate", "0"), ("new", "a", "--burst", "5"), ("new", "a\n")],
)
def test_what_makes_no_sense_is_refused_and_nothing_written(path, arguments, capsys):
    assert run(path, *arguments) == 1
    assert capsys.readouterr().err
    assert not path.exists()


def test_a_change_that_fails_leaves_the_file_as_it_was(path):
    run(path, "new", "ada")
    before = path.read_bytes()

    def fail(keys):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        change_file(path, fail)
    assert path.read_bytes() == before


def test_keys_made_at_the_same_moment_are_all_kept(path):
    threads = [threading.Thread(target=run, args=(path, "new", f"key{i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.name for record in read_file(path).keys} == {f"key{i}" for i in range(12)}


def test_no_two_keys_are_alike():
    assert len({new_key("a")[0] for _ in range(200)}) == 200


def test_a_damaged_file_is_refused_without_showing_its_hashes():
    keys = add(KeyFile(), new_key("ada")[1])
    data = json.loads(keys.model_dump_json())
    digest = data["keys"][0]["sha256"]
    twice = {**data, "keys": data["keys"] * 2}
    misspelt = {**data, "keys": [{**data["keys"][0], "ratte": 5}]}
    short = {**data, "keys": [{**data["keys"][0], "sha256": digest[:-1]}]}
    for damaged in (twice, misspelt, short, {**data, "version": 2}, [], None):
        with pytest.raises(ValueError, match=r"keys\.json") as refused:
            parse_keys(json.dumps(damaged).encode(), "keys.json")
        assert digest[:-1] not in str(refused.value)
    for content in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"keys\.json"):
            parse_keys(content, "keys.json")
