"""Identity: ½‖ΔW‖², in which truncation is the plain SVD."""

from gossamer.metrics._base import InputMetric


class Identity(InputMetric):
    """Every weight counts the same; needs no calibration."""

    unit = "half squared weight error"
