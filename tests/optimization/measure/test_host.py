import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from optimization.measure.host import Host, Load, LoadWatch, describe_host


def test_host_names_the_cpu_and_what_is_installed() -> None:
    host = describe_host(threads=1, libraries=("numpy", "no-such-library"))
    assert host.cpu and host.cores >= 1 and host.threads == 1
    assert dict(host.libraries) == {"numpy": np.__version__}
    assert json.loads(json.dumps(host.to_json()))["libraries"]["numpy"] == np.__version__
    assert Host.from_json(json.loads(json.dumps(host.to_json()))) == host


def test_load_names_a_machine_that_others_keep_busy() -> None:
    assert Load(0.3, 0.05, 0.0).quiet
    assert not Load(0.3, 0.9, 0.0).quiet
    assert not Load(0.3, 0.0, 0.5).quiet
    assert "others kept 0.90 cores busy (NOT quiet" in str(Load(0.3, 0.9, 0.0))
    assert "0.50 taken by other machines" in str(Load(0.3, 0.9, 0.5))
    assert "unknown" in str(Load(None, None, None))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell what others use")
def test_what_another_process_uses_is_counted_and_what_this_one_uses_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([(100.0, 1.0), (101.5, 1.2)])
    own = iter([10.0, 10.5])
    clock = iter([50.0, 52.0])
    monkeypatch.setattr("optimization.measure.host._machine_seconds", lambda: next(seconds))
    monkeypatch.setattr("optimization.measure.host._own_seconds", lambda: next(own))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    load = LoadWatch().read()
    # 1.5 s of all processes less 0.5 s of this one, over 2 s.
    assert load.others_cores == pytest.approx(0.5)
    assert load.stolen_cores == pytest.approx(0.1)


@pytest.mark.slow
def test_the_system_s_counters_show_a_busy_neighbour() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = LoadWatch()
        time.sleep(1.5)
        load = watch.read()
    finally:
        busy.kill()
        busy.wait()
    if load.others_cores is None:
        pytest.skip("the system does not tell what others use")
    assert load.others_cores > 0.2
