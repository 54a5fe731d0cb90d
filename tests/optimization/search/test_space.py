from pathlib import Path

import pytest

from optimization.distill.parameters import Distill
from optimization.prune.settings import Prune
from optimization.quantize.choice import NoQuantization
from optimization.quantize.dynamic import DynamicInt8
from optimization.quantize.static import StaticInt8
from optimization.search.pipeline import Pipeline
from optimization.search.space import Space, default_space, narrowed, read_space
from tests import toys
from training.recipes import load_recipe


def test_every_combination_is_a_pipeline_once() -> None:
    space = Space((None, Distill()), (None, Prune(0.5)), (NoQuantization(), StaticInt8()))
    assert len(space.pipelines()) == 8 == len(set(space.pipelines()))


def test_what_others_build_on_comes_first() -> None:
    """One pipeline of each training leads, the students before what is pruned of them; the rest only quantizes."""
    space = Space((None, Distill()), (None, Prune(0.5)), (NoQuantization(), StaticInt8()))
    pipelines = space.pipelines()
    trainings = [pipeline.trained for pipeline in pipelines]
    assert len(set(trainings[:4])) == 4
    assert trainings.index(Pipeline(Distill())) < trainings.index(Pipeline(Distill(), Prune(0.5)))
    assert pipelines[0].distill is not None, "what takes longest starts first"


def test_a_pipeline_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="lists teacher more than once"):
        Space(quantize=(NoQuantization(), NoQuantization())).pipelines()


def test_the_default_space_of_images_tries_every_pass() -> None:
    space = default_space(toys.IMAGES, load_recipe("digits"), load_recipe("digits_student"))
    assert len(space.pipelines()) >= 24
    assert None in space.distill and None in space.prune and NoQuantization() in space.quantize


def test_nothing_is_pruned_where_no_recipe_says_how_it_learns_again() -> None:
    assert default_space(toys.IMAGES, None, None).prune == (None,)
    assert default_space(toys.IMAGES, None, None).distill == (None,)


def test_texts_are_quantized_as_they_come() -> None:
    space = default_space(toys.TEXTS, load_recipe("ag_news"), load_recipe("ag_news_student"))
    assert space.prune == (None,) and DynamicInt8() in space.quantize


def test_a_file_to_begin_with_is_found_from_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces").mkdir()
    file = tmp_path / "spaces" / "space.yaml"
    file.write_text("distill: [null, {init_from: given.th}, {init_from: /elsewhere/given.th}, {temperature: 2}]")
    _, here, elsewhere, plain = read_space(file, Space()).distill
    assert here is not None and elsewhere is not None and plain is not None
    assert (here.init_from, elsewhere.init_from) == (str(tmp_path / "given.th"), "/elsewhere/given.th")
    assert plain == Distill(temperature=2)


def test_a_narrower_student_is_half_as_wide() -> None:
    assert narrowed(load_recipe("digits_student")) == ("architecture.params.widths=8,16,24",)
    assert narrowed(load_recipe("ag_news_student")) == (
        "architecture.params.embedding=32",
        "architecture.params.hidden=32",
    )


def test_a_file_says_each_pass_or_leaves_it_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("prune: [null, {amount: 0.25, fine_tune: {epochs: 1}}]\nquantize:\n- kind: static_int8\n")
    space = read_space(file, Space(distill=(Distill(),)))
    assert space.distill == (Distill(),)
    assert [cut and cut.amount for cut in space.prune] == [None, 0.25]
    assert space.quantize == (StaticInt8(),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds no space"),
        ("backend: [gpu]", "a space has no backend"),
        ("prune: {amount: 0.5}", "list what the pass may be"),
        ("prune: []", "list what the pass may be"),
        ("quantize: [{kind: int3}]", "quantize: quantization kind 'int3'"),
        ("prune: [", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_space_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_space(file, Space())
    assert str(file) in str(error.value)


def test_a_pruned_teacher_waits_for_nobody_and_a_pruned_student_for_its_student() -> None:
    trainings = [one.trained for one in Space((None, Distill()), (None, Prune(0.5))).pipelines()]
    assert trainings == [
        Pipeline(Distill()),
        Pipeline(prune=Prune(0.5)),
        Pipeline(),
        Pipeline(Distill(), Prune(0.5)),
    ]
