"""Target: which harm bound a pair may be given, found out on rows that calibrate nothing.

A bound that is chosen by the rows that certify it would promise too much. So calibrations of the size to come are drawn
from other rows (the gate split), and what each bound would bring is seen there.

Shape suffixes: N rows, C classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from optimization.cascade.cost import expected_cost_ms
from optimization.cascade.resplits import Resplits, resplit
from optimization.release import GuaranteeKind
from training.encoding import Array


@dataclass(frozen=True)
class Prospect:
    """What one harm bound brings on average over drawn calibrations; `cost_ms` is the expected time of a row.

    `temperature` and `threshold` are the median calibration's, `kind` is the promise that most of them could give.
    """

    max_harm: float
    temperature: float
    threshold: float | None
    deferral: float
    accuracy: float
    harm: float
    cost_ms: float
    kind: GuaranteeKind = "high_probability"


def foresee(
    student_logits_NC: Array,
    teacher_logits_NC: Array,
    labels_N: NDArray[np.int64],
    *,
    bounds: Sequence[float],
    rows: int,
    temperature_rows: int,
    student_ms: float,
    teacher_ms: float,
    draws: int = 50,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Prospect, ...]:
    """A Prospect of each bound, the strictest first, from `draws` calibrations of `rows` rows each."""
    return tuple(
        _prospect(
            resplit(
                student_logits_NC,
                teacher_logits_NC,
                labels_N,
                rows=rows,
                temperature_rows=temperature_rows,
                max_harm=bound,
                resplits=draws,
                confidence=confidence,
                seed=seed,
            ),
            student_ms,
            teacher_ms,
        )
        for bound in sorted(bounds)
    )


def strictest_within(prospects: Sequence[Prospect], cost_limit_ms: float) -> Prospect:
    """The strictest bound whose pair takes at most `cost_limit_ms` a row.

    Raises ValueError where even the loosest takes longer, saying what it takes.
    """
    for prospect in prospects:
        if prospect.cost_ms <= cost_limit_ms:
            return prospect
    cheapest = min(prospects, key=lambda prospect: prospect.cost_ms)
    raise ValueError(
        f"no harm bound brings the pair down to {cost_limit_ms:.3g} ms a row: at {cheapest.max_harm:.2%} it defers "
        f"{cheapest.deferral:.1%} and takes {cheapest.cost_ms:.3g} ms"
    )


def loosest_that(prospects: Sequence[Prospect], passes: Callable[[Prospect], bool]) -> Prospect:
    """The loosest bound, which is the cheapest, before the first that fails, from the strictest on.

    Raises ValueError where the strictest fails already.
    """
    chosen = None
    for prospect in prospects:
        if not passes(prospect):
            break
        chosen = prospect
    if chosen is None:
        raise ValueError(f"not even a harm bound of {prospects[0].max_harm:.2%} passes: the pair is not what is wanted")
    return chosen


def _prospect(found: Resplits, student_ms: float, teacher_ms: float) -> Prospect:
    # Where there is no threshold the teacher answers every row, as with one that no confidence reaches.
    middle = float(np.median([math.inf if one.threshold is None else one.threshold for one in found.resplits]))
    return Prospect(
        max_harm=found.max_harm,
        temperature=float(np.median([one.temperature for one in found.resplits])),
        threshold=middle if middle <= 1 else None,
        deferral=found.mean_deferral,
        accuracy=found.mean_accuracy,
        harm=found.mean_harm,
        cost_ms=expected_cost_ms(student_ms, teacher_ms, found.mean_deferral),
        kind=max(get_args(GuaranteeKind), key=found.count),
    )
