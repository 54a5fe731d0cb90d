"""Crops: which part of an image is enlarged to the whole, as RandomResizedCrop draws it (Szegedy et al. 2015).

Shape suffixes: B batch, D draws, T tries.
"""

import numpy as np
from numpy.typing import NDArray

# Width over height of what is cut out, log-uniform; torchvision's defaults, as the number of tries is.
ASPECT = (3 / 4, 4 / 3)
TRIES = 10
CROP_DRAWS = 2 * TRIES + 2  # an area and an aspect a try, and where it lies


def crops(
    smallest: float, height: int, width: int, draws_BD: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Uniform numbers [B, CROP_DRAWS] -> sizes and middles, [B, 2], width before height.

    Sizes are shares of the image's sides, middles run from -1 to 1. The area is a share of the image's from `smallest`
    to 1. Of ten tries the first that lies within the image counts; where none does, the largest in its middle.
    """
    draws = draws_BD.astype(np.float64)
    area_BT = (smallest + draws[:, :TRIES] * (1 - smallest)) * height * width
    aspect_BT = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** draws[:, TRIES : 2 * TRIES]
    wide_BT, high_BT = np.sqrt(area_BT * aspect_BT), np.sqrt(area_BT / aspect_BT)
    fits_BT = (wide_BT <= width) & (high_BT <= height)
    first_B = np.arange(len(draws)), fits_BT.argmax(axis=1)
    # Where no try fits: the whole image, but for what makes it longer than any crop may be.
    largest = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    fits_B1 = fits_BT.any(axis=1, keepdims=True)
    sides_B2 = np.where(fits_B1, np.stack([wide_BT[first_B], high_BT[first_B]], axis=1), largest)
    sizes_B2 = sides_B2 / (width, height)
    middles_B2 = np.where(fits_B1, (2 * draws[:, -2:] - 1) * (1 - sizes_B2), 0.0)
    return sizes_B2, middles_B2
