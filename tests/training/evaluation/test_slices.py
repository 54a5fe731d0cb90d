import numpy as np
import pytest
from scipy.stats import fisher_exact

from tests.toys import texts
from training.encoding import ImageEncoding
from training.evaluation.slices import (
    built_in_slices,
    confidence_bands,
    holm,
    load_slicer,
    own_slices,
    score_slices,
)
from training.task import Source

GREY = ImageEncoding(height=4, width=4, channels=1, labels=("a", "b"))


def _rows(rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (rows, 1, 4, 4), dtype=np.uint8)
    return images, generator.integers(0, 2, rows)


def test_holm_corrects_as_worked_out_by_hand() -> None:
    """0.01 x 4, 0.03 x 3, 0.04 x 2 raised to what came before, 0.8 x 1."""
    assert holm([0.04, 0.01, 0.8, 0.03]) == pytest.approx([0.09, 0.04, 0.8, 0.09])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_test_is_fishers_of_the_slice_against_the_rest() -> None:
    correct = np.array([True] * 60 + [False] * 20 + [True] * 110 + [False] * 10)
    mask = np.arange(200) < 80
    (score,) = score_slices(correct, {"own": {"first": mask}})
    expected = fisher_exact([[60, 20], [110, 10]], alternative="less").pvalue
    assert score.p_value == pytest.approx(expected)
    assert (score.rows, score.accuracy, score.weak) == (80, 0.75, True)
    assert score.interval[0] < 0.75 < score.interval[1]


def test_a_planted_weakness_is_found_and_chance_is_not() -> None:
    images, labels = _rows()
    dark = images.mean(axis=(1, 2, 3)) < np.quantile(images.mean(axis=(1, 2, 3)), 1 / 3)
    generator = np.random.default_rng(1)
    correct = generator.random(600) < np.where(dark, 0.75, 0.95)
    weak = [one for one in score_slices(correct, built_in_slices(GREY, images, labels)) if one.weak]
    assert [one.group for one in weak] == ["brightness"]
    assert weak[0].name.startswith("dark")


def test_false_alarms_are_rarer_than_one_in_twenty_for_all_slices_together() -> None:
    images, labels = _rows(300)
    groups = built_in_slices(GREY, images, labels)
    generator = np.random.default_rng(2)
    alarms = sum(any(one.weak for one in score_slices(generator.random(300) < 0.8, groups)) for _ in range(100))
    assert alarms <= 10


def test_thirds_hold_every_row_once_and_few_or_equal_rows_are_not_parted() -> None:
    images, labels = _rows()
    for group, masks in built_in_slices(GREY, images, labels).items():
        assert (np.sum(list(masks.values()), axis=0) == 1).all(), group
    assert built_in_slices(GREY, images[:20], labels[:20])["brightness"] == {}
    assert built_in_slices(GREY, np.zeros_like(images), labels)["contrast"] == {}


def test_texts_are_parted_by_length_and_those_cut_off_are_named() -> None:
    task = texts(Source())
    split = task.splits["val"]
    groups = built_in_slices(task.encoding, split.inputs, split.labels)
    lengths = (split.inputs != 0).sum(axis=1)
    assert set(groups) == {"class", "length"}
    assert (groups["length"]["full: 8 tokens or cut"] == (lengths == 8)).all()
    assert (next(iter(groups["length"].values())) == (lengths <= np.quantile(lengths, 1 / 3))).all()


def test_confidence_bands_hold_every_row_once_and_are_not_tested() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 3)) * 4
    logits[0] = [1000.0, 0.0, 0.0]
    bands = confidence_bands(logits)
    assert (np.sum(list(bands.values()), axis=0) == 1).all()
    assert list(bands.values())[-1][0]
    scores = score_slices(np.arange(200) % 2 == 0, {"confidence": bands})
    assert {one.p_value for one in scores} == {None}
    assert not any(one.weak for one in scores)


def test_a_slice_without_rows_is_left_out_and_one_of_all_rows_not_tested() -> None:
    nobody, everybody = np.zeros(10, bool), np.ones(10, bool)
    (score,) = score_slices(np.arange(10) > 4, {"own": {"nobody": nobody, "everybody": everybody}})
    assert (score.name, score.p_value, score.accuracy) == ("everybody", None, 0.5)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"odd": np.zeros(3, bool)}, r"slice 'odd' is bool \(3,\): give one bool a row, \(5,\)"),
        ({"odd": np.zeros(5)}, "slice 'odd' is float64"),
        ([("odd", np.zeros(5, bool))], "returned a list"),
    ],
)
def test_slices_that_do_not_fit_are_refused(made: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_slices(lambda inputs, labels: made, np.zeros((5, 2)), np.zeros(5, np.int64))  # type: ignore[arg-type,return-value]


def test_a_users_slices_are_found_by_module_and_callable() -> None:
    slicer = load_slicer("tests.training.evaluation.test_slices:even_labels")
    assert list(own_slices(slicer, np.zeros((3, 1)), np.array([0, 1, 2]))["even"]) == [True, False, True]
    with pytest.raises(ValueError, match="module:callable"):
        load_slicer("brightness")


def even_labels(inputs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"even": labels % 2 == 0}
