"""QuantizationError: what every pass of this package refuses with."""


class QuantizationError(ValueError):
    """A graph, a calibration set or a choice that cannot be quantized, or that this machine cannot run."""
