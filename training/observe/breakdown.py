"""Breakdown: where a training's time went, and the verdict on what held it back."""

from collections.abc import Mapping
from dataclasses import dataclass

from training.observe.clock import PHASES, Phase

# A share of the steps' time above which a phase other than computing is said to hold the training back.
NOTABLE_SHARE = 0.15

# What each phase is called when it does, and what helps.
BOUNDS: Mapping[Phase, tuple[str, str]] = {
    "data": ("data-bound", "waiting for batches: lighter augmentation, more cores, or rows packed in memory"),
    "transfer": ("transfer-bound", "copying to the device: keep the set on it, or send smaller types"),
    "communication": ("communication-bound", "waiting for gradients: larger batches, fewer workers, or compression"),
    "checkpoint": ("checkpoint-bound", "keeping the state: checkpoints less often, or faster storage"),
}
COMPUTING: tuple[Phase, ...] = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Breakdown:
    """`seconds` of each phase over all steps of one worker; `steps_s` is their sum without validation."""

    seconds: Mapping[Phase, float]

    @property
    def steps_s(self) -> float:
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "validation")

    def share(self, *phases: Phase) -> float:
        """What part of the steps' time these phases took; 0 where no step was timed."""
        return sum(self.seconds.get(phase, 0.0) for phase in phases) / self.steps_s if self.steps_s else 0.0

    def verdict(self) -> str:
        """One line: what held the training back, how much, and what helps."""
        if not self.steps_s:
            return "no step was timed"
        worst = max(BOUNDS, key=self.share)
        if self.share(worst) >= NOTABLE_SHARE:
            name, advice = BOUNDS[worst]
            return f"{name}: {self.share(worst):.0%} {advice}"
        parts = ", ".join(f"{phase} {self.share(phase):.0%}" for phase in COMPUTING)
        return f"compute-bound: {self.share(*COMPUTING):.0%} of the time is the model's own ({parts})"

    def metrics(self) -> dict[str, float]:
        """The shares by the names under which they are logged."""
        return {f"time/{phase}_share": self.share(phase) for phase in PHASES if phase != "validation"}
