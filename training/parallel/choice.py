"""Which Strategy a Plan asks for."""

from training.loop.worker import Worker
from training.parallel.plan import Plan
from training.parallel.strategy import Strategy
from training.recipe import Recipe


def make_strategy(recipe: Recipe, worker: Worker, plan: Plan) -> Strategy:
    """Raises ValueError where `plan` does not go with so many processes, or with the recipe.

    Only what is asked for is imported: torch's parallel parts take seconds.
    """
    shape = plan.shape(worker.world_size)
    if worker.world_size == 1:
        return Strategy(recipe, worker)
    if shape.pipeline > 1:
        from training.parallel.pipeline import Pipeline

        return Pipeline(recipe, worker, plan)
    if shape.is_plain:
        from training.parallel.replicas import Replicas

        return Replicas(recipe, worker, plan)
    from training.parallel.spread import Spread

    return Spread(recipe, worker, plan)
