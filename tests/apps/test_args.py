import pytest
from pydantic import ValidationError

from apps.args import AppArgs


def test_the_champion_of_digits_is_served_by_default():
    args = AppArgs()
    assert args.model == "digits"
    assert [(item.ref, item.weight) for item in args.releases] == [("champion", 1.0)]


@pytest.mark.parametrize("ref", ["champion", "3", "digits.endpoint@champion", "digits.endpoint@12"])
def test_a_release_is_named_by_alias_number_or_both(ref):
    assert AppArgs(releases=[{"ref": ref}]).releases[0].ref == ref


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modle": "digits"}, "Extra inputs"),
        ({"releases": [{"ref": "champion", "wieght": 2}]}, "Extra inputs"),
        ({"releases": []}, "at least 1"),
        ({"releases": [{}, {}, {}]}, "at most 2"),
        ({"releases": [{"weight": 0}]}, "greater than 0"),
        ({"releases": [{"weight": float("nan")}]}, "finite"),
        ({"releases": [{"ref": "a@b@c"}]}, "pattern"),
        ({"releases": [{"ref": "../x"}]}, "pattern"),
        ({"model": ""}, "pattern"),
        ({"model": "a/b"}, "pattern"),
        ({"deadline_ms": 0}, "greater than 0"),
        ({"deadline_ms": 10, "reserve_ms": 10}, "the reserve must be smaller"),
        ({"max_rows": 1000, "max_queue_rows": 10}, "largest size"),
        ({"student_placement": "elsewhere"}, "ingress"),
        ({"runners": {"teacher": {"backend": "onnxruntime-gpu"}}}, "onnxruntime-cuda"),
        ({"runners": {"teacher": {"provider": "onnxruntime-cuda"}}}, "Extra inputs"),
        ({"runners": {"backend": "onnxruntime-cuda"}}, "Extra inputs"),
        ({"runners": {"student": {"backend": "aot-inductor"}}}, "set student_placement to deployment"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"batch_sizes": [8, 4, 32]}, "rise"),
        ({"batch_sizes": [1, 8]}, "max_batch_rows"),
        ({"more_models": [{"model": "digits"}]}, "serve each once"),
        ({"more_models": [{"model": "cifar10", "cache_dir": "/x"}]}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        AppArgs(**wrong)


def test_teacher_and_student_run_on_the_cpu_unless_told_otherwise():
    runners = AppArgs(runners={"teacher": {"backend": "tensorrt", "allow_fallback": True}}).runners
    assert (runners.teacher.backend, runners.teacher.allow_fallback) == ("tensorrt", True)
    assert (runners.student.backend, runners.student.allow_fallback) == ("auto", False)


def test_compiled_code_that_holds_the_lock_is_for_replicas_of_their_own():
    student = {"student": {"backend": "aot-inductor"}}
    args = AppArgs(student_placement="deployment", runners=student)
    assert args.runners.student.backend == "aot-inductor"


def test_further_models_have_settings_of_their_own():
    args = AppArgs(deadline_ms=30, more_models=[{"model": "cifar10", "deadline_ms": 80}])
    assert [(item.model, item.deadline_ms) for item in args.models] == [("digits", 30), ("cifar10", 80)]
