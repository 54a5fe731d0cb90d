"""What tests of every package share: one live cluster a session, and tiny models whose answers can be foretold."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from apps.launcher.local import LocalCluster

NUM_CPUS = 4

# Warnings are errors, save those that a library raises in its own code and of its own doing.
WARNINGS_OF_LIBRARIES = ("ignore:Using extra keyword arguments on `Field`:DeprecationWarning:ray",)


def pytest_configure(config: pytest.Config) -> None:
    for line in WARNINGS_OF_LIBRARIES:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[LocalCluster]":
    """A Ray head and an MLflow server of this session's own; processes reach them through `cluster.environment`."""
    from apps.launcher.local import LocalCluster

    state_dir: Path = tmp_path_factory.mktemp("cluster")
    with LocalCluster(state_dir, num_cpus=NUM_CPUS) as started:
        before = dict(os.environ)
        os.environ.update(started.environment)
        try:
            yield started
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="session")
def serve_port(cluster: "LocalCluster") -> Iterator[int]:
    """The port of this session's Serve, and after it that of its gRPC: a running Serve cannot change them."""
    from apps.launcher.ports import reserve_block

    reservation = reserve_block(2)
    yield reservation.first
    reservation.release()


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server without a cluster, for tests of what talks to the registry alone."""
    from apps.launcher.local import MlflowServer, base_environment
    from apps.launcher.ports import free_block

    folder: Path = tmp_path_factory.mktemp("mlflow")
    server = MlflowServer(folder, folder, base_environment(), port=free_block(1))
    server.process.start()
    try:
        server.wait_until_ready(90)
        yield server.uri
    finally:
        server.stop()
