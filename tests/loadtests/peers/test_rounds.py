import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.peers.catalog import Peer
from loadtests.peers.client import Load, PythonClient, find_client
from loadtests.peers.model import sample_images
from loadtests.peers.process import ServerError, ServerProcess, free_ports
from loadtests.peers.rounds import CEILING, Bench, Plan, Sample, rounds
from loadtests.peers.wire import Post, Raw

SERVER = Path(__file__).with_name("small_server.py")
PLAN = Plan(("image",), (1, 2), seconds=1, warmup_s=0)
IMAGES = sample_images(4)
LOGITS = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)


@dataclass
class StubClient:
    described: str = "stub"
    asked: list[tuple[str, int]] = field(default_factory=list)

    def run(self, address: str, posts: Sequence[Post], connections: int, seconds: float) -> Load:
        self.asked.append((address, connections))
        return Load(100, 1.0, 1.0, 2.0, 3.0, 4.0, 0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "logits.npy", LOGITS)
    return Bench(tmp_path / "model.onnx", IMAGES, LOGITS, StubClient(), tmp_path, tmp_path)


def small(bench: Bench, mode: str) -> Peer:
    command = ("{python}", str(SERVER), "{port}", mode, str(bench.logs))
    return Peer(mode, f"the {mode} server", command, {"image": Raw()}, "none", start_timeout_s=20)


def is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.slow
def test_a_turn_measures_a_server_and_leaves_nothing_behind(bench: Bench) -> None:
    samples = list(bench.turn(small(bench, "right"), PLAN, 1))
    assert [(sample.connections, sample.images_per_s) for sample in samples] == [(1, 100.0), (2, 100.0)]
    assert isinstance(bench.client, StubClient)
    address = bench.client.asked[0][0]
    assert not is_open(address)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "said"),
    [("wrong", "ONNX Runtime"), ("late", "there is no model here"), ("error", "500")],
)
def test_a_server_that_cannot_be_measured_says_why(bench: Bench, mode: str, said: str) -> None:
    peer = replace(small(bench, mode), start_timeout_s=3)
    with pytest.raises(ServerError, match=said):
        list(bench.turn(peer, PLAN, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrk", "python"])
def test_a_client_counts_answers_and_failures(bench: Bench, name: str) -> None:
    if name == "wrk" and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    client = find_client() if name == "wrk" else PythonClient()
    for mode in ("right", "error"):
        peer = small(bench, mode)
        port = free_ports(1)
        command = [sys.executable, *[part.replace("{port}", str(port)) for part in peer.command[1:]]]
        with ServerProcess(command, os.environ, bench.logs, bench.logs / "log") as server:
            server.wait_until(lambda port=port: None if is_open(f"127.0.0.1:{port}") else "closed", 20)
            load = client.run(f"127.0.0.1:{port}", bench.posts(Raw(), "image"), 2, 1)
        assert load.requests > 10
        assert 0 < load.p50_ms <= load.p95_ms <= load.p99_ms <= load.max_ms
        assert load.failed == (0 if mode == "right" else load.requests)


@pytest.mark.slow
def test_a_server_ends_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess,sys,time; p=subprocess.Popen(['sleep','300']); print(p.pid,flush=True); time.sleep(300)"
    log = tmp_path / "log"
    with ServerProcess([sys.executable, "-c", code], os.environ, tmp_path, log) as server:
        server.wait_until(lambda: None if log.read_text().strip() else "no child yet", 20)
        child = int(log.read_text())
    for _ in range(50):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its server")


def test_rounds_take_turns_and_leave_out_what_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(server: str, number: int) -> Sample:
        return Sample(server, "image", 1, number, 1.0)

    monkeypatch.setattr(Bench, "ceiling", lambda self, seconds, number: [sample(CEILING, number)])
    monkeypatch.setattr(Bench, "turn", lambda self, peer, plan, number: iter([sample(peer.name, number)]))
    kept: list[tuple[str, int]] = []
    finished = rounds(
        bench,
        [small(bench, "right"), small(bench, "wrong")],
        PLAN,
        2,
        lambda server, number: (server, number) == ("right", 1),
        lambda samples: kept.extend((item.server, item.round) for item in samples),
        lambda peer, reason: pytest.fail(reason),
        time.monotonic() + 60,
    )
    assert finished
    assert kept == [(CEILING, 1), ("wrong", 1), (CEILING, 2), ("right", 2), ("wrong", 2)]


def test_a_server_that_fails_is_left_out_and_the_next_one_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(self: Bench, peer: Peer, plan: Plan, number: int) -> list[Sample]:
        if peer.name == "wrong":
            raise ServerError("it does not start")
        return [Sample(peer.name, "image", 1, number, 1.0)]

    monkeypatch.setattr(Bench, "turn", turn)
    kept: list[str] = []
    skipped: dict[str, str] = {}
    rounds(
        bench,
        [small(bench, "wrong"), small(bench, "right")],
        PLAN,
        1,
        lambda server, number: server == CEILING,
        lambda samples: kept.extend(item.server for item in samples),
        lambda peer, reason: skipped.update({peer.name: reason}),
        time.monotonic() + 60,
    )
    assert kept == ["right"]
    assert skipped == {"wrong": "it does not start"}


def test_no_server_starts_after_the_time_is_up(bench: Bench) -> None:
    finished = rounds(
        bench, [small(bench, "right")], PLAN, 1, lambda server, number: server == CEILING,
        lambda samples: pytest.fail("measured"), lambda peer, reason: pytest.fail(reason), time.monotonic() - 1,
    )  # fmt: skip
    assert not finished


def test_the_places_in_files_and_commands_are_filled(bench: Bench, tmp_path: Path) -> None:
    peer = replace(
        small(bench, "right"),
        command=("{bin}/serve", "{folder}", "{model}"),
        files={"settings.json": '{"http": {port}, "grpc": {port_1}}'},
        env={"PEER_MODEL": "{model}"},
    )
    command, env = bench._filled(peer, 4000, tmp_path)
    assert command == [f"{Path(sys.executable).parent}/serve", str(tmp_path), str(bench.model)]
    assert json.loads((tmp_path / "settings.json").read_text()) == {"http": 4000, "grpc": 4001}
    assert env["PEER_MODEL"] == str(bench.model)
    assert env["OMP_NUM_THREADS"] == "1"
