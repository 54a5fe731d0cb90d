import numpy as np
import pytest

from training.evaluation.temperature import fit_temperature

CLASSES = 4


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_temperature_recovers_the_scale_of_the_logits(true_temperature: float) -> None:
    generator = np.random.default_rng(8)
    logits = generator.normal(scale=2.0, size=(20_000, CLASSES))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(logits * true_temperature, labels) == pytest.approx(true_temperature, rel=0.03)


def test_a_few_rows_without_an_error_do_not_claim_certainty() -> None:
    assert 0.5 < fit_temperature(np.eye(3), np.arange(3)) < 1.0
    assert 19 < fit_temperature(np.eye(3).repeat(1000, axis=0), np.array([1, 2, 0]).repeat(1000)) <= 20
