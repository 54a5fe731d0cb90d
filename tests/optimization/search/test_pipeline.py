import pytest

from optimization.distill.parameters import Distill, Hint
from optimization.prune.settings import FineTune, Prune
from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.mixed import MixedPrecision
from optimization.quantize.static import StaticInt8
from optimization.search.pipeline import Pipeline

PIPELINES = [
    Pipeline(),
    Pipeline(
        Distill("digits_student", ("architecture.params.widths=8,16",), objective="dist", hints=(Hint("a", "b"),))
    ),
    Pipeline(None, Prune(0.3, fine_tune=FineTune(epochs=2, learn_from="distil")), StaticInt8("percentile")),
    Pipeline(Distill(), Prune(speedup=2.0, round_to=4), MixedPrecision(StaticInt8(per_channel=False), keep=1)),
    Pipeline(
        Distill(settings=("architecture.params.mean=[0.5,0.4]",), init_from="/far/given.th"),
        Prune(0.5, unit="blocks", rounds=2),
    ),
    Pipeline(quantize=QuantizationAware(learn_from="distil", epochs=2)),
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.label)
def test_a_pipeline_comes_back_from_its_json(pipeline: Pipeline) -> None:
    assert Pipeline.from_json(pipeline.to_json()) == pipeline


def test_a_label_says_what_is_not_as_usual() -> None:
    assert [pipeline.label for pipeline in PIPELINES] == [
        "teacher",
        'student digits_student widths=8,16 objective=dist hints=[{"teacher": "a", "student": "b"}]',
        "teacher, -30% channels, static int8 calibrator=percentile",
        "student, channels out to 2x round_to=4, mixed per_channel=False keep=1",
        "student mean=[0.5,0.4] from given.th, -50% blocks rounds=2",
        "teacher, aware int8 learn_from=distil epochs=2",
    ]


def test_pipelines_that_differ_in_what_the_graph_becomes_share_their_training() -> None:
    base = Pipeline(Distill(), Prune(0.5))
    assert Pipeline(Distill(), Prune(0.5), StaticInt8()).trained == base.trained
    assert Pipeline(Distill(), Prune(0.4), StaticInt8()).trained != base.trained


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"backend": "gpu"}, "a pipeline has no backend; it has distill, prune, quantize"),
        ({"prune": {"amount": 0.5, "channels": 3}}, "cannot be read"),
        ({"prune": {"amount": 2}}, "amount is 2"),
        ({"quantize": {"kind": "int3"}}, "quantization kind 'int3' is not one of"),
        ({"distill": {"temprature": 3}}, "cannot be read"),
    ],
)
def test_what_is_no_pipeline_is_refused_with_the_reason(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pipeline.from_json(data)
