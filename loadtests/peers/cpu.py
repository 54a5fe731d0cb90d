"""CPU seconds of a server and its client, by the part that their processes play."""

import os
import re
import resource
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

# The first pattern that a process's name and command line contain says its part.
_PARTS = (
    ("haproxy", r"haproxy"),
    ("ingress replica", r"ServeReplica:[^ ]*:(Ingress|Echo)"),
    ("model replica", r"ServeReplica:[^ ]*:(Model|Teacher|Student)"),
    ("Serve controller", r"ServeController"),
    ("Serve proxy", r"(ProxyActor|HAProxyManager)"),
    ("raylet and GCS", r"(raylet|gcs_server|plasma)"),
    ("Ray agents", r"(ray/dashboard|runtime_env|log_monitor|ray::|ray/_private|ray start|autoscaler)"),
    ("MLflow", r"mlflow"),
    ("Triton", r"tritonserver"),
    ("mosec's front end", r"mosec.*/bin/mosec"),
)
_MAIN, _CHILDREN = "server", "its workers"


def seconds_by_part(pid: int) -> dict[str, float]:
    """User and system seconds so far of the process `pid` and all that descend from it."""
    parts: defaultdict[str, float] = defaultdict(float)
    for part, seconds in seconds_by_pid(pid).values():
        parts[part] += seconds
    return dict(parts)


def seconds_by_pid(pid: int) -> dict[int, tuple[str, float]]:
    """The same by process id, with the part that the process plays."""
    import psutil

    found = {}
    for process in [(root := psutil.Process(pid)), *root.children(recursive=True)]:
        try:
            said = f"{process.name()} {' '.join(process.cmdline())}"
            times = process.cpu_times()
        except psutil.Error:  # gone, or one that this user may not look at
            continue
        part = next((part for part, pattern in _PARTS if re.search(pattern, said)), None)
        found[process.pid] = (part or (_MAIN if process.pid == pid else _CHILDREN), times.user + times.system)
    return found


def seconds_by_thread(pid: int) -> dict[str, float]:
    """The same of one process by the names of its threads; empty where the system (Linux alone does) tells none."""
    import psutil

    named: defaultdict[str, float] = defaultdict(float)
    try:
        for thread in psutil.Process(pid).threads():
            name = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text().strip()
            named[name] += thread.user_time + thread.system_time
    except (psutil.Error, OSError):  # a thread has ended meanwhile, or there is no /proc
        return {}
    return dict(named)


def client_seconds() -> float:
    """Seconds of the processes that this one started and has waited for: the clients, never the servers."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def busy_seconds() -> float:
    """Seconds so far in which the cores that this process may use did anything, for whomever."""
    import psutil

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(psutil.cpu_count())
    times = psutil.cpu_times(percpu=True)
    # Idle time apart, and guests' time, which is counted in the user's too.
    idle = ("idle", "iowait", "guest", "guest_nice")
    busy = (seconds for core in cores for name, seconds in times[core]._asdict().items() if name not in idle)
    return float(sum(busy))


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds between two looks, largest first; parts that took less than a hundredth are left out."""
    gone = {part: seconds - before.get(part, 0.0) for part, seconds in after.items()}
    return dict(sorted(((part, s) for part, s in gone.items() if s >= 0.01), key=lambda item: -item[1]))
