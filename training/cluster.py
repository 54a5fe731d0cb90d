"""The Ray cluster that a command works on: the one at RAY_ADDRESS, or one of its own."""

import os

OBJECT_STORE_BYTES = 150 * 2**20


def connect() -> None:
    """Join the cluster at RAY_ADDRESS, or start one for this process: a bare ray.init() would join any that runs."""
    own = "RAY_ADDRESS" not in os.environ
    if own:
        keep_to_loopback()
    import ray

    if ray.is_initialized():
        return
    if own:
        # Ray Train's actors ask the dashboard how each other does, and complain every few seconds where there is none.
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            dashboard_host="127.0.0.1",
            include_dashboard=True,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    else:
        ray.init(address=os.environ["RAY_ADDRESS"])


def has_gpus(workers: int = 1) -> bool:
    """Whether the joined cluster has a GPU for every worker. Asked for more than it has, Ray would wait for ever."""
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) >= workers)  # type: ignore[no-untyped-call]


def keep_to_loopback() -> None:
    """Settings for a cluster that this process starts, before Ray is imported."""
    # Loopback alone, and so no tokens; without the last, Ray takes the network card's address for 127.0.0.1.
    for name, value in (
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"),
    ):
        os.environ.setdefault(name, value)
