import re
from dataclasses import asdict

import pytest

from apps.flags import serve_environment
from loadtests.peers.catalog import KINDS, PEERS, RAY_FLAGS, peer
from loadtests.peers.environments import PINS


def test_the_echo_runs_under_the_flags_that_tandem_sets() -> None:
    """Those that are left out bound how long something may take, or say what follows a replica's death."""
    ours = serve_environment()
    assert {name: ours.get(name) for name in RAY_FLAGS} == RAY_FLAGS


@pytest.mark.parametrize("package", sorted({item.package for item in PEERS if item.package} | {"profile"}))
def test_every_version_of_a_server_is_pinned(package: str) -> None:
    lines = (PINS / f"{package}.txt").read_text().split("\n")
    assert all(re.fullmatch(r"[\w.\-]+(\[[\w,]+\])?==[\w.+!]+( ;.*)?", line) for line in lines if line)


@pytest.mark.parametrize("name", [item.name for item in PEERS])
def test_a_server_says_how_it_was_set_and_what_it_is_asked(name: str) -> None:
    found = peer(name)
    assert found.settings
    assert found.wires.keys() <= KINDS.keys()
    assert "image" in found.wires
    places = set(re.findall(r"\{(\w+)\}", " ".join([*found.command, *found.env.values(), *found.files.values()])))
    assert places <= {"python", "bin", "model", "folder", "libraries", "port", "port_1", "port_2", "port_3"}, asdict(
        found
    )


def test_an_unknown_server_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="choose from tandem"):
        peer("nginx")
