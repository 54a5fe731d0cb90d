"""How many replicas a load needs: numbers in, replicas out."""

import cloudpickle
import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

import apps.scaling
from apps.scaling import Costs, Demand, Objective, Replicas, SloPolicy, Steps, decide, needed, read_demand

# 10 ms and 2 ms a row, batches of 16: 381 rows/s at most.
TEACHER = Costs(call_ms=10.0, row_ms=2.0, max_rows=16)
OBJECTIVE = Objective(p95_ms=60.0, load=0.8, loop_busy=0.7, refused=0.05)
STEPS = Steps(up=2, down=1, slack=0.75, cooldown_s=10.0)


def replicas(running=1, target=None, lowest=1, highest=5, since_move_s=None):
    return Replicas(running, running if target is None else target, lowest, highest, since_move_s)


def asked(demand, **kwargs):
    return decide(demand, replicas(**kwargs), OBJECTIVE, STEPS, target_ongoing=16)


def load(rows_per_s, **kwargs):
    return Demand(reporting=1, arrived_per_s=rows_per_s, costs=TEACHER, **kwargs)


def test_an_idle_replica_is_predicted_to_take_one_call():
    assert TEACHER.p95_ms(0.0) == pytest.approx(12.0)


def test_the_predicted_p95_rises_with_the_rate_and_has_no_bound_at_saturation():
    predicted = [TEACHER.p95_ms(rate) for rate in range(0, 380, 20)]
    assert predicted == sorted(predicted)
    assert TEACHER.p95_ms(381) == float("inf")


def test_the_prediction_is_what_a_simulated_replica_does():
    """Uniform arrivals at a replica that always takes what waits: no row takes longer than predicted, some nearly."""
    for rate in (100, 200, 300):
        arrivals = [i / rate * 1e3 for i in range(4_000)]
        free_ms, waiting, latencies = 0.0, 0, []
        while waiting < len(arrivals):
            start = max(free_ms, arrivals[waiting])
            batch = [at for at in arrivals[waiting : waiting + TEACHER.max_rows] if at <= start]
            free_ms = start + TEACHER.batch_ms(len(batch))
            latencies += [free_ms - at for at in batch]
            waiting += len(batch)
        worst = sorted(latencies)[int(0.95 * len(latencies))]
        assert 0.6 * TEACHER.p95_ms(rate) < worst <= 1.1 * TEACHER.p95_ms(rate)


def test_replicas_are_as_few_as_keep_the_objective():
    for rate in (1, 50, 150, 300, 600, 1_000):
        count = needed(load(rate), OBJECTIVE, 20)
        assert TEACHER.p95_ms(rate / count) <= OBJECTIVE.p95_ms
        fewer = rate / (count - 1) if count > 1 else float("inf")
        assert TEACHER.p95_ms(fewer) > OBJECTIVE.p95_ms or fewer > OBJECTIVE.load * TEACHER.rows_per_s


def test_a_tighter_objective_asks_for_more_replicas_at_the_same_queue():
    loose, tight = (needed(load(300, ongoing=4), Objective(p95_ms=ms), 20) for ms in (200.0, 30.0))
    assert loose < tight


def test_an_objective_out_of_reach_asks_for_no_more_than_the_load_needs():
    assert needed(load(100), Objective(p95_ms=5.0), 20) == 1


def test_a_busy_event_loop_asks_for_replicas_though_there_is_no_model():
    assert needed(Demand(reporting=2, loop_busy=1.8), OBJECTIVE, 20) == 3
    assert needed(Demand(reporting=2, loop_busy=0.01), OBJECTIVE, 20) == 1


def test_rows_that_are_refused_count_as_load_and_ask_for_one_more_whatever_is_predicted():
    calm = load(100)
    assert asked(calm) == 1
    assert asked(load(100, refused_per_s=10)) == 2
    assert asked(load(100, refused_per_s=4)) == 1


def test_a_move_is_no_larger_than_a_step():
    assert asked(load(1_500)) == 3
    assert asked(load(1_500), running=3) == 5
    assert asked(load(1), running=5) == 4


def test_bounds_hold():
    assert asked(load(10_000), running=5) == 5
    assert asked(load(0), running=1) == 1
    assert asked(load(0), running=1, lowest=0) == 0
    assert asked(Demand(reporting=1), running=1, lowest=0) == 1


def test_within_the_cooldown_nothing_moves():
    assert asked(load(1_500), since_move_s=9.9) == 1
    assert asked(load(1_500), since_move_s=10.0) == 3


def test_a_replica_is_let_go_only_where_the_others_keep_the_objective_with_slack():
    # One replica would do for 270 rows/s, but with too little to spare to be sure.
    assert needed(load(270), OBJECTIVE, 5) == 1
    assert asked(load(270), running=2) == 2
    assert asked(load(100), running=2) == 1


def test_no_constant_rate_makes_it_move_back_and_forth():
    for rate in range(0, 1_500, 7):
        count, seen = 1, []
        for _ in range(12):
            count = asked(load(rate), running=count)
            seen.append(count)
        assert seen == sorted(seen), rate
        count, seen = 5, []
        for _ in range(12):
            count = asked(load(rate), running=count)
            seen.append(-count)
        assert seen == sorted(seen), rate


def test_while_none_runs_the_target_stands():
    assert asked(load(500), running=0, target=1, lowest=0) == 1
    assert asked(Demand(reporting=0), running=0, target=0, lowest=0) == 0


def test_replicas_that_report_nothing_are_counted_by_what_waits():
    assert asked(Demand(reporting=0, ongoing=20), running=2) == 2
    assert asked(Demand(reporting=0, ongoing=100), running=1) == 3
    assert asked(Demand(reporting=0, ongoing=1), running=4) == 3


def test_reports_of_several_replicas_are_added_and_the_slowest_counts():
    metrics = {
        "arrived_per_s": {"a": 100.0, "b": 50.0},
        "refused_per_s": {"a": 3.0, "b": 0.0},
        "loop_busy": {"a": 0.25, "b": 0.5},
        "call_ms": {"a": 10.0, "b": 14.0},
        "row_ms": {"a": 2.0, "b": 1.0},
        "max_rows": {"a": 16.0, "b": 16.0},
    }
    assert read_demand(metrics, 7.0) == Demand(2, 150.0, 3.0, Costs(14.0, 2.0, 16), 0.75, 7.0)
    assert read_demand({}, 7.0) == Demand(0, ongoing=7.0)


def context(metrics, running=1, **config):
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="Teacher",
        app_name="tandem",
        current_num_replicas=running,
        target_num_replicas=running,
        running_replicas=[],
        total_num_requests=lambda: 3.0,
        total_queued_requests=lambda: 0.0,
        aggregated_metrics=lambda: metrics,
        raw_metrics=dict,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=4,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=1_000.0,
        config=AutoscalingConfig(min_replicas=0, max_replicas=4, **config),
    )


def metrics_at(rate):
    values = {"arrived_per_s": rate, "loop_busy": 0.1, "call_ms": 10.0, "row_ms": 2.0, "max_rows": 16.0}
    return {name: {"replica": value} for name, value in values.items()}


def test_the_policy_decides_by_what_ray_serve_tells_it():
    policy = SloPolicy(p95_ms=60.0)
    assert policy(context(metrics_at(100.0))) == (1, {})
    assert policy(context(metrics_at(400.0))) == (2, {})
    assert policy(context(metrics_at(0.0))) == (0, {})


def test_ray_serve_loads_the_policy_by_its_name_and_ships_it_by_value():
    policy = {"policy_function": "apps.scaling:SloPolicy", "policy_kwargs": {"p95_ms": 25.0}}
    loaded = AutoscalingConfig(policy=policy).policy
    assert loaded.get_policy()(**loaded.policy_kwargs)(context(metrics_at(400.0)))[0] == 3
    cloudpickle.register_pickle_by_value(apps.scaling)
    try:
        shipped = cloudpickle.dumps(SloPolicy)
    finally:
        cloudpickle.unregister_pickle_by_value(apps.scaling)
    # A controller that has no such module reads it all the same.
    assert b"apps.scaling_signals" not in shipped
    assert cloudpickle.loads(shipped)(p95_ms=25.0)(context(metrics_at(400.0)))[0] == 3


@pytest.mark.parametrize(
    "kwargs", [{"p95_ms": 0}, {"load": 1.1}, {"loop_busy": 0}, {"refused": 1}, {"up": 0}, {"slack": 0}]
)
def test_a_keyword_out_of_range_is_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        SloPolicy(**kwargs)
