"""Study: the one door to optuna. TPE asks for points and is told how they did; fANOVA says which fields mattered."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.tuning.ledger import Trial
from training.tuning.space import Point, Range, Space

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial as OptunaTrial
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 5  # random ones before the first that is modelled; optuna's 10 are most of a small sweep
FORESTS = 12  # fitted to resampled trials, for the spread of the importances
FEWEST_TRIALS = 4  # below this a forest has nothing to split


class Study:
    """Tree-structured Parzen estimator (Bergstra et al. 2011): val accuracy up, several trials at a time."""

    def __init__(self, space: Space, seed: int) -> None:
        optuna = _optuna()
        self._distributions = _distributions(space)
        self._study: OptunaStudy = optuna.create_study(direction="maximize")
        self._seed = seed
        self._asked: dict[int, OptunaTrial] = {}

    def ask(self, number: int) -> Point:
        """The point that trial `number` should try, by its number and the trials that are known."""
        from optuna.samplers import TPESampler

        # Anew for each: after a resume, one sampler for all would draw what it drew for the first trials again.
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        # Of trials under way it is assumed that they do badly, so that the next is sought elsewhere.
        self._study.sampler = TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True)
        trial = self._study.ask(self._distributions)
        self._asked[number] = trial
        return dict(trial.params)

    def adopt(self, number: int, point: Point) -> None:
        """Trial `number` tries `point`, which was asked for in an earlier process."""
        self._study.enqueue_trial(dict(point))
        self.ask(number)

    def tell(self, number: int, accuracy: float | None) -> None:
        """How an asked one did; None for one that failed."""
        import optuna

        state = optuna.trial.TrialState.FAIL if accuracy is None else optuna.trial.TrialState.COMPLETE
        self._study.tell(self._asked.pop(number), accuracy, state=state)

    def recall(self, point: Point, accuracy: float) -> None:
        """A trial that was over before this process began."""
        self._study.add_trial(_frozen(self._distributions, point, accuracy))


def importances(space: Space, trials: Sequence[Trial], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Field -> share of the variance of val accuracy that it alone explains, and the spread of that share.

    fANOVA (Hutter et al. 2014) on forests fitted to trials drawn with replacement; the spread is the standard deviation
    between these. The most important first. Empty where fewer than FEWEST_TRIALS are scored or all did alike.
    """
    scored = [trial for trial in trials if trial.scores]
    if len(scored) < FEWEST_TRIALS or len({trial.accuracy for trial in scored}) == 1:
        return {}
    generator = np.random.default_rng(seed)
    drawn: list[dict[str, float]] = []
    for forest in range(FORESTS):
        chosen = [scored[i] for i in generator.integers(0, len(scored), len(scored))]
        if len({trial.accuracy for trial in chosen}) > 1:
            drawn.append(_fanova(space, chosen, forest))
    shares = {field: np.array([one[field] for one in drawn]) for field in space.fields}
    ordered = sorted(shares, key=lambda field: -float(shares[field].mean()))
    return {field: (float(shares[field].mean()), float(shares[field].std())) for field in ordered}


def _fanova(space: Space, trials: Sequence[Trial], seed: int) -> dict[str, float]:
    optuna = _optuna()
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    # fANOVA weighs values by the width of their part of a range: of a log range that must be the width on its own
    # scale, or all but the largest tenth would hardly count.
    distributions = {
        one.field: CategoricalDistribution(one.choices) if one.kind == "choice" else FloatDistribution(0.0, 1.0)
        for one in space.ranges
    }
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        point = {
            one.field: trial.point[one.field] if one.kind == "choice" else one.share(trial.point[one.field])
            for one in space.ranges
        }
        study.add_trial(_frozen(distributions, point, trial.accuracy))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed)
    found: Mapping[str, float] = evaluator.evaluate(study)
    return {field: found[field] for field in space.fields}


def _frozen(distributions: Mapping[str, Any], point: Point, accuracy: float) -> "FrozenTrial":
    import optuna

    return optuna.trial.create_trial(params=dict(point), distributions=dict(distributions), value=accuracy)


def _distributions(space: Space) -> dict[str, Any]:
    return {one.field: _distribution(one) for one in space.ranges}


def _distribution(one: Range) -> Any:
    from optuna import distributions

    if one.kind == "choice":
        return distributions.CategoricalDistribution(one.choices)
    if one.kind == "int" or one.whole:
        return distributions.IntDistribution(int(one.low), int(one.high), log=one.kind == "log")
    return distributions.FloatDistribution(one.low, one.high, log=one.kind == "log")


def _optuna() -> Any:
    """optuna, without a line for every trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
