"""Temperature: one number by which logits are divided so that confidence agrees with accuracy.

Shape suffixes: M rows, C classes.
"""

import math

import numpy as np

from training.encoding import Array
from training.evaluation.scores import check_logits

TEMPERATURE_BOUNDS = (0.05, 20.0)
LOG_TEMPERATURE_DEVIATION = 0.5


def fit_temperature(logits_MC: Array, labels_M: Array) -> float:
    """The temperature that minimises the log loss of softmax(logits / temperature), within 0.05..20.

    Guo et al., "On Calibration of Modern Neural Networks" (2017). The search runs over the logarithm, in
    which the loss has a single minimum. A normal prior of standard deviation 0.5 on that logarithm (so that
    a factor of e in either direction is two deviations) keeps a few rows without an error from claiming
    certainty; it weighs no more than one row, so many rows overrule it.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    check_logits(logits_MC, labels_M)
    logits_MC = logits_MC.astype(np.float64)
    row_M = np.arange(len(labels_M))

    def log_loss(log_temperature: float) -> float:
        data = -log_softmax(logits_MC / math.exp(log_temperature), axis=1)[row_M, labels_M].sum()
        return float(data + 0.5 * (log_temperature / LOG_TEMPERATURE_DEVIATION) ** 2)

    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    return math.exp(float(minimize_scalar(log_loss, bounds=(low, high), method="bounded").x))
