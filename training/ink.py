"""Ink: what was drawn, found in a grey picture of it and fitted into a frame.

A photographed pen stroke lies on paper that is neither white nor even: a lamp makes a gradient, a hand throws
a shadow, the camera adds noise. Ink is what is darker than the paper *around it*.

Shape suffixes: H height, W width. A plane is float32 in 0..1; ink is a plane that is 1 where the stroke is.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Pictures are read at this size: strokes stay several pixels wide, camera noise averages out.
WORKING_SIDE = 192
# Noise is smoothed over this share of the picture's longer side.
GRAIN = 0.004
# Light that varies by less than this share over the picture is even.
EVEN_LIGHT = 0.25
# Strokes are narrower than these shares of the picture's shorter side, on even and on uneven light.
WIDEST_STROKE, WIDEST_STROKE_IN_SHADE = 0.7, 0.4
# A shallower drawing, as a share of its paper's light, is the paper's own grain.
FAINTEST_INK = 0.07
# A blot of less ink than this share of the largest one is dirt.
SMALLEST_BLOT = 0.03
# Strokes are thickened and thinned on a drawing of this height, and left alone while they cover between
# these multiples of the wanted share: what is near enough keeps its soft edges.
STROKE_SIDE = 128
NEAR_SHARE = (0.9, 1.3)


def working_plane(grey_HW: NDArray[np.uint8]) -> Plane:
    """A grey picture -> its plane, reduced to the working size where it is larger."""
    image = Image.fromarray(grey_HW)
    scale = WORKING_SIDE / max(image.size)
    if scale < 1:
        image = image.resize(_scaled(image.size, scale), Image.Resampling.BOX)
    plane: Plane = np.asarray(image, dtype=np.float32) / np.float32(255)
    return plane


def is_dark_on_light(plane_HW: Plane) -> bool:
    """Whether the drawing is darker than its ground.

    Ink is the smaller part of a picture, so it is what the brightness leans towards (its third moment) once
    the slow change of light is taken away.
    """
    plane = _smooth(plane_HW)
    residue = plane - ndimage.gaussian_filter(plane, max(plane.shape) / 4, mode="nearest")
    return bool(((residue - residue.mean()) ** 3).mean() < 0)


def find_ink(plane_HW: Plane) -> Plane:
    """A plane with a dark drawing on light ground -> its ink; all zero where nothing was drawn."""
    plane = _smooth(plane_HW)
    side = min(plane.shape)
    ground = _ground(plane, WIDEST_STROKE * side)
    if ground.max() - ground.min() > EVEN_LIGHT * ground.max():
        # A shadow lies on the paper. The narrower the strokes that the ground has to pass over, the closer it
        # follows the shadow's edge: look once for their width, then once more with that.
        ground = _ground(plane, WIDEST_STROKE_IN_SHADE * side)
        strokes = _strokes(_depth(plane, ground))
        if strokes.any():
            width = 2 * float(np.percentile(ndimage.distance_transform_edt(strokes)[strokes], 90))
            ground = _ground(plane, min(WIDEST_STROKE_IN_SHADE * side, 2.5 * width + 2))
    depth = _depth(plane, ground)
    strokes = _strokes(depth)
    if not strokes.any() or strokes.all() or depth[strokes].mean() - depth[~strokes].mean() < FAINTEST_INK:
        return np.zeros_like(depth)
    floor, top = float(np.median(depth[~strokes])), float(np.percentile(depth[strokes], 75))
    ink = np.clip((depth - floor) / max(top - floor, 1e-6), 0, 1).astype(np.float32)
    # Grown by a pixel, so that the soft edge of a stroke stays with it.
    kept: Plane = ink * ndimage.binary_dilation(strokes)
    return kept


def fit_ink(ink_HW: Plane, height: int, width: int, share: float | None = None) -> NDArray[np.uint8]:
    """Ink -> uint8 [height, width]: its bounding box, centred, as large as fits with its aspect kept.

    With a `share`, strokes are thickened or thinned until they cover about that share of the square
    around the drawing. No ink gives a black frame.
    """
    content = _crop(ink_HW)
    if not content.size:
        return np.zeros((height, width), dtype=np.uint8)
    if share is not None:
        content = _with_share(content, share)
    # Fitted at a multiple of the frame, so that aspect and centre are kept below one pixel.
    fine = max(1, STROKE_SIDE // max(height, width))
    drawing = _resized(content, min(height * fine / content.shape[0], width * fine / content.shape[1]))
    frame = np.zeros((height * fine, width * fine), dtype=np.float32)
    top, left = (frame.shape[0] - drawing.shape[0]) // 2, (frame.shape[1] - drawing.shape[1]) // 2
    frame[top : top + drawing.shape[0], left : left + drawing.shape[1]] = drawing
    cells = frame.reshape(height, fine, width, fine).mean(axis=(1, 3))
    pixels: NDArray[np.uint8] = np.clip(np.round(cells * 255), 0, 255).astype(np.uint8)
    return pixels


def _smooth(plane: Plane) -> Plane:
    smooth: Plane = ndimage.gaussian_filter(plane, GRAIN * max(plane.shape))
    return smooth


def _ground(plane: Plane, window: float) -> Plane:
    """The paper without its ink: a closing fills what is dark and narrower than `window` pixels."""
    ground: Plane = ndimage.grey_closing(plane, size=(max(3, round(window)),) * 2, mode="nearest")
    return ground


def _depth(plane: Plane, ground: Plane) -> Plane:
    # A shadow multiplies, so ink is counted as a share of the light that its own paper sends back.
    depth: Plane = np.clip(1 - plane / np.maximum(ground, np.float32(0.02)), 0, 1)
    return depth


def _strokes(depth: Plane) -> Mask:
    """What is deep enough to be ink, without dirt and without what comes in over the border."""
    deep = depth > _otsu(depth)
    labels, _ = ndimage.label(deep, structure=np.ones((3, 3)))
    weights = np.bincount(labels.ravel(), weights=depth.ravel())
    weights[0] = 0
    kept = weights >= SMALLEST_BLOT * weights.max()
    outer = np.zeros_like(kept)
    outer[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    # Where nearly all reaches the border, the picture was cut close to the drawing.
    if weights[~outer].max(initial=0) > 0.1 * weights.max():
        kept &= ~outer
    strokes: Mask = kept[labels] & deep
    return strokes


def _otsu(plane: Plane) -> float:
    """The level that splits the values into two classes of the least inner variance (Otsu 1979)."""
    counts, edges = np.histogram(plane, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    between = np.zeros(len(below))
    split = (below > 0) & (above > 0)
    means = sums[:-1][split] / below[split], (sums[-1] - sums[:-1][split]) / above[split]
    between[split] = below[split] * above[split] * (means[0] - means[1]) ** 2
    # Between two separate classes any level is as good: the middle one keeps clear of both.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1:][best[len(best) // 2]])


def _crop(ink_HW: Plane) -> Plane:
    drawn = ink_HW > 0.5
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not rows.size:
        return ink_HW[:0, :0]
    return ink_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _with_share(content: Plane, share: float) -> Plane:
    margin = STROKE_SIDE // 4
    drawing = np.pad(_resized(content, STROKE_SIDE / max(content.shape)), margin) > 0.5
    covered = _covered(drawing)
    if not covered or NEAR_SHARE[0] * share < covered < NEAR_SHARE[1] * share:
        return content
    # Signed distance to the stroke's edge: cut at -r it is thicker by r on each side, at +r thinner. Thinning
    # goes no further than a quarter of the thickest stroke, so that nothing falls apart.
    distance = ndimage.distance_transform_edt(drawing) - ndimage.distance_transform_edt(~drawing)
    low, high = (-margin + 1.0, 0.0) if covered < share else (0.0, float(distance.max()) / 4)
    for _ in range(8):
        level = (low + high) / 2
        if _covered(distance > level) > share:
            low = level
        else:
            high = level
    return _crop((distance > low).astype(np.float32))


def _covered(drawing: Mask) -> float:
    box = _crop(drawing.astype(np.float32))
    longest: int = max(1, *box.shape)
    return float(box.sum()) / (longest * longest)


def _resized(plane: Plane, scale: float) -> Plane:
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    image = Image.fromarray(plane)
    return np.asarray(image.resize(_scaled(image.size, scale), method), dtype=np.float32)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
