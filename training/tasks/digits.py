"""Handwritten digits, 8x8 grey, bundled with scikit-learn: 1,797 rows, no network needed.

Source: UCI "Optical Recognition of Handwritten Digits", test part (Alpaydin, Kaynak 1998).
"""

import numpy as np

from training.encoding import ImageEncoding
from training.task import Source, SplitName, Task, cut

ENCODING = ImageEncoding(
    height=8,
    width=8,
    channels=1,
    labels=tuple("0123456789"),
    polarity="light_on_dark",
    crop_to_content=True,
    ink_share=0.3,  # of the set's own images, 0.30 with a standard deviation of 0.03
)


def load(source: Source) -> Task:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The set counts ink in 0..16; the Encoding's images use the whole byte.
    images_BCHW = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    shares: dict[SplitName, float] = {"train": 0.50, "val": 0.06, "calibration": 0.12, "gate": 0.20, "report": 0.12}
    splits = cut(images_BCHW, bunch.target.astype(np.int64), shares)
    # A few hundred gate images cannot prove half a point: three points is what their number can carry.
    return Task("digits", ENCODING, splits, margin=0.03)
