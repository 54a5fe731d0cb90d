"""Ports: what is free, and who holds one that is not."""

import os
import socket

import pytest

from apps.launcher.ports import family_of, find_holder, free_block, is_free, kept_from_others, reserve, reserve_block


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_listened_port_is_not_free(taken_port):
    assert not is_free(taken_port)


def test_a_port_held_on_all_interfaces_is_not_free_on_loopback():
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_block_is_free_from_end_to_end():
    first = free_block(20)
    assert all(is_free(port) for port in range(first, first + 20))


def test_the_preferred_port_is_reserved_only_when_free(taken_port):
    free = free_block(1)
    for preferred, as_wished in ((free, True), (taken_port, False)):
        reservation = reserve(preferred)
        assert (reservation.first == preferred) is as_wished
        reservation.release()


def test_two_launchers_that_look_at_once_get_different_ports():
    """Neither listens yet: it is the reservation that keeps them apart."""
    first = reserve(free_block(1))
    second = reserve(first.first)
    assert second.first != first.first
    first.release()
    third = reserve(first.first)
    assert third.first == first.first
    second.release()
    third.release()


def test_blocks_of_two_launchers_do_not_overlap():
    blocks = [reserve_block(150) for _ in range(10)]
    ports = [port for block in blocks for port in range(block.first, block.first + 150)]
    assert len(ports) == len(set(ports))
    for block in blocks:
        block.release()


def test_a_port_kept_for_the_endpoint_is_in_nobody_elses_block():
    """The block that would be chosen next is taken by one port in its middle."""
    first = free_block(150)
    with kept_from_others([first + 70]):
        other = reserve(first + 70)
        assert other.first != first + 70
        blocks = [other]
        with pytest.raises(OSError, match="no block"):
            while True:
                blocks.append(reserve_block(150))
        assert first not in [block.first for block in blocks]
        for block in blocks:
            block.release()
    assert is_free(first + 70)


def test_the_holder_of_a_port_is_named_with_its_pid(taken_port):
    holder = find_holder(taken_port)
    assert holder.pid == os.getpid()
    assert holder.family == "Python"
    assert str(os.getpid()) in str(holder)


@pytest.mark.parametrize(
    ("name", "command", "family"),
    [
        ("docker-proxy", "/usr/bin/docker-proxy -proto tcp", "Docker"),
        ("ray::ProxyActor", "ray::ProxyActor", "Ray"),
        ("raylet", "/x/raylet --raylet_socket_name=/tmp", "Ray"),
        ("python3.11", "/home/node/bin/python3.11 -m http.server 8000", "Python"),
        ("python", "/x/python -m mlflow server --port 8000", "MLflow"),
        ("nginx", "nginx: worker process", "nginx"),
        ("node", "node server.js", "Node.js"),
        ("caddy", "caddy run", "caddy"),
    ],
)
def test_processes_are_named_by_their_family(name, command, family):
    assert family_of(name, command) == family
