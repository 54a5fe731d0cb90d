"""Gate of a Measurement: may a model stand for the one that it was made from, by what was measured of both."""

from optimization.gate import Verdict, at_most, not_slower, parity_kept, within_margin, worth_it
from optimization.measure.latency import speedup
from optimization.measure.measurement import Measurement

# Rounding apart, a change of format keeps the logits.
MAX_ABS_DIFFERENCE = 1e-3


def gate_measured(
    candidate: Measurement,
    parent: Measurement,
    *,
    margin: float,
    max_flip_rate: float = 0.1,
    max_parity_flip_rate: float | None = None,
    max_slowdown: float = 1.1,
    batch_size: int | None = None,
) -> Verdict:
    """Non-inferior to its parent by `margin`, few flipped answers, and shown to be faster, smaller or more accurate.

    Both must come from one `measure` run, since their rounds are paired; `batch_size` is where speed is looked at (the
    first that was measured, if None). `max_parity_flip_rate` is for what was converted and not trained anew: parity is
    then looked at too, of the logits where the precision stayed. Raises ValueError where they cannot be compared.
    """
    paired = candidate.paired
    if paired is None or paired.reference != parent.version:
        compared = "with nothing" if paired is None else f"with {paired.reference}"
        raise ValueError(
            f"{candidate.version} was compared {compared}, not with {parent.version}: measure it beside that"
        )
    if (candidate.split, candidate.data_hash, candidate.key) != (parent.split, parent.data_hash, parent.key):
        raise ValueError(
            f"{candidate.version} was measured on {candidate.key} of data {candidate.data_hash[:12]}, "
            f"{parent.version} on {parent.key} of {parent.data_hash[:12]}: measure both in one run"
        )
    size = batch_size or candidate.latency.batches[0].batch_size
    faster = speedup(parent.latency, candidate.latency, size)
    checks = [
        within_margin(paired.difference, margin, candidate.version, parent.version),
        at_most("flips", paired.flip_rate, max_flip_rate, f"{{0:.2%}} of the answers differ from {parent.version}'s"),
        worth_it(faster, paired.difference, candidate.footprint.size_bytes, parent.footprint.size_bytes),
        not_slower(faster, max_slowdown),
    ]
    if max_parity_flip_rate is not None:
        what, same = f"{candidate.version} and {parent.version}", candidate.precision == parent.precision
        checks.append(parity_kept(what, paired.parity, same, max_parity_flip_rate, MAX_ABS_DIFFERENCE))
    return Verdict(tuple(checks))
