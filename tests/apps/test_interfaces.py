"""A replica's gRPC servers: on loopback where the cluster is."""

import pytest
from ray.serve._private import default_impl, replica

from apps.interfaces import keep_to_loopback


@pytest.fixture
def opened(monkeypatch):
    """The addresses at which the two functions of Ray were asked to open a port."""
    addresses = []
    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda server, address: addresses.append(address))
    monkeypatch.setattr(default_impl, "add_grpc_address", lambda server, address: addresses.append(address))
    return addresses


def open_both():
    replica.add_port_to_grpc_server(None, "[::]:0")
    default_impl.add_grpc_address(None, "[::]:9000")


def test_on_a_cluster_of_one_machine_the_ports_open_on_loopback(opened):
    keep_to_loopback("127.0.0.1")
    open_both()
    assert opened == ["127.0.0.1:0", "127.0.0.1:9000"]


def test_on_a_cluster_of_several_machines_they_stay_reachable(opened):
    keep_to_loopback("10.0.0.7")
    open_both()
    assert opened == ["[::]:0", "[::]:9000"]


def test_a_ray_that_opens_them_elsewhere_is_said(opened, monkeypatch, caplog):
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    keep_to_loopback("127.0.0.1")
    assert "open to the network" in caplog.text
