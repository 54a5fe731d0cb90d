"""How far a search for a counterexample goes in the quick tests: so many tries, whatever else the machine is doing."""

from hypothesis import HealthCheck, settings

bounded = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
