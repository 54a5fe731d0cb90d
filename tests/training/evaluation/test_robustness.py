import numpy as np
import pytest

from tests.toys import texts
from tests.training.evaluation.invented import image_task, say
from training.encoding import Array
from training.evaluation.robustness import MEASURED_SEVERITIES, draw_robustness, measure_robustness, sample_pictures
from training.task import Source


def _bright_or_dark(images: Array) -> Array:
    """Class 1 where an image is brighter than the middle."""
    mean = images.reshape(len(images), -1).mean(axis=1)
    return np.stack([128 - mean, mean - 128], axis=1).astype(np.float32)


def test_what_a_model_rests_on_is_what_a_corruption_breaks() -> None:
    task = image_task(classes=2, rows=160)
    split = task.splits["val"]
    for image, label in zip(split.inputs, split.labels, strict=True):
        image[:] = np.clip(image // 8 + (95 if label == 0 else 130), 0, 255)
    found = measure_robustness(_bright_or_dark, task, split, rows=160)
    assert found.clean_accuracy == 1.0
    assert found.corruptions[0] in ("brightness", "fog")
    for harmless in ("blur", "contrast", "pixelate"):
        assert {one.accuracy for one in found.of(harmless)} == {1.0}, harmless
    assert found.worst.accuracy == min(one.accuracy for one in found.results) == pytest.approx(0.5, abs=0.15)
    assert found.mean_accuracy == pytest.approx(np.mean([one.accuracy for one in found.results]))


def test_the_same_rows_are_drawn_and_corrupted_alike_each_time() -> None:
    task = image_task(classes=3, rows=300)
    first, again = (measure_robustness(say(3), task, task.splits["val"], rows=150) for _ in range(2))
    assert first == again
    assert first.rows == 150
    assert measure_robustness(say(3), task, task.splits["val"], rows=150, seed=1) != first
    assert measure_robustness(say(3), task, task.splits["val"], rows=10_000).rows == 300


def test_every_measured_severity_is_tracked_and_drawn() -> None:
    task = image_task(classes=2, rows=40)
    seen: list[tuple[str, int]] = []

    def track(steps: object) -> list[tuple[str, int]]:
        seen.extend(steps)  # type: ignore[call-overload]
        return seen

    found = measure_robustness(say(2), task, task.splits["val"], rows=40, track=track)
    assert len(seen) == len(found.results) == 8 * len(MEASURED_SEVERITIES)
    labels = [label.get_text() for label in draw_robustness(found).axes[0].get_yticklabels()]
    assert labels == found.corruptions[::-1]


def test_texts_are_corrupted_as_the_tokenizer_gives_them_back() -> None:
    """The toy texts are wild where "storm" stands in them: only what touches that word can change an answer."""
    task = texts(Source())
    encoder = task.encoder()
    (storm,) = encoder.encode_texts(["storm"])

    def predict(tokens: Array) -> Array:
        wild = (tokens == storm[0]).any(axis=1)
        return np.stack([~wild, wild], axis=1).astype(np.float32)

    found = measure_robustness(predict, task, task.splits["val"], rows=60)
    assert found.clean_accuracy == 1.0
    assert {one.accuracy for one in found.of("capitals")} == {1.0}, "the tokenizer knows no capitals"
    dropped = [one.accuracy for one in found.of("dropped words")]
    assert dropped[0] > dropped[-1]
    assert found.worst.corruption in ("dropped words", "typing errors")


def test_no_rows_are_refused_and_pictures_show_each_corruption() -> None:
    task = image_task(classes=2, rows=4)
    with pytest.raises(ValueError, match="rows is 0"):
        measure_robustness(say(2), task, task.splits["val"], rows=0)
    pictures = sample_pictures(task.splits["val"].inputs[0], severity=5)
    assert len(pictures) == 8
    assert {picture.shape for picture in pictures.values()} == {(1, 12, 12)}
