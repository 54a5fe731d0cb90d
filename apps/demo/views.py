"""Views: an image classifier that answers with the mean over many slightly moved views of each image, as one graph.

Test-time augmentation is an ordinary way to buy a little accuracy with a lot of time, which makes it an honest way to
an expensive teacher: the time of a row grows with the views, and batches do not make them cheaper.

Shape suffixes: B batch, V views, C channels, H height, W width, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where each pixel of each view is read, [V,H,W,2] as (x, y) in -1..1, as ONNX's GridSample takes it.
Grid = NDArray[np.float32]

# Whole pixels where there are many: anything between two pixels blurs, and costs accuracy.
MAX_SHIFT_PIXELS = 8
# Images of a few pixels are moved by less than one, with the ranges of the digits recipe's augmentation.
SHIFT, ROTATE_DEGREES, SCALE = 0.1, 10.0, 0.1


def max_shifted_views(flip: bool) -> int:
    """How many views `shifted_grid` can make."""
    return len(_moves(flip))


def shifted_grid(views: int, height: int, width: int, flip: bool) -> Grid:
    """The image itself, then views moved by ever more pixels; with `flip` every second is mirrored.

    Raises ValueError where `views` is not 1 to `max_shifted_views`.
    """
    moves = _moves(flip)
    if not 1 <= views <= len(moves):
        raise ValueError(f"views is {views}: give 1 to {len(moves)}")
    y_HW, x_HW = _pixel_centres(height, width)
    grids = [
        np.stack([sign * x_HW + 2 * right / width, y_HW + 2 * down / height], axis=-1)
        for down, right, sign in moves[:views]
    ]
    return np.stack(grids).astype(np.float32)


def jittered_grid(views: int, height: int, width: int, seed: int = 0) -> Grid:
    """The image itself, then views a little moved, turned and scaled at random."""
    random = np.random.default_rng(seed)
    shifts_V2 = 2 * random.uniform(-SHIFT, SHIFT, (views, 2))
    angles_V = np.deg2rad(random.uniform(-ROTATE_DEGREES, ROTATE_DEGREES, views))
    scales_V = random.uniform(1 - SCALE, 1 + SCALE, views)
    shifts_V2[0], angles_V[0], scales_V[0] = 0.0, 0.0, 1.0
    y_HW, x_HW = _pixel_centres(height, width)
    grids = [
        np.stack([(cosine * x_HW + sine * y_HW) + right, (cosine * y_HW - sine * x_HW) + down], axis=-1)
        for cosine, sine, (right, down) in zip(
            np.cos(angles_V) / scales_V, np.sin(angles_V) / scales_V, shifts_V2, strict=True
        )
    ]
    return np.stack(grids).astype(np.float32)


def _pixel_centres(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """y and x [H,W], as GridSample counts them without align_corners."""
    ys, xs = ((2 * np.arange(size) + 1) / size - 1 for size in (height, width))
    y_HW, x_HW = np.meshgrid(ys, xs, indexing="ij")
    return y_HW, x_HW


def _moves(flip: bool) -> list[tuple[int, int, int]]:
    """Pixels down, pixels right, and -1 where mirrored; the smallest moves first."""
    reach = range(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS + 1)
    shifts = sorted(((down, right) for down in reach for right in reach), key=lambda move: (np.hypot(*move), move))
    return [(*shift, sign) for shift in shifts for sign in ((1, -1) if flip else (1,))]


def averaged_over_views(model: bytes, grid_VHW2: Grid) -> bytes:
    """`model` (ONNX, one uint8 input [B,C,H,W], one float output [B,K]) -> a model of the same interface.

    Its logits are the mean over the views of `grid_VHW2`. Raises ValueError where the model's interface is another.
    """
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

    inner = onnx.load_from_string(model)
    source, sink = _only(inner.graph.input, "input"), _only(inner.graph.output, "output")
    channels, height, width = _image_shape(source)
    opset = next(item.version for item in inner.opset_import if item.domain in ("", "ai.onnx"))
    inner = compose.add_prefix(inner, "view/")
    views = len(grid_VHW2)
    constants: dict[str, NDArray[Any]] = {
        "grid": grid_VHW2[None],
        "one": np.array([1], np.int64),
        "grid_tail": np.array([views, height, width, 2], np.int64),
        "image_tail": np.array([views, channels, height, width], np.int64),
        "grids_shape": np.array([-1, height, width, 2], np.int64),
        "images_shape": np.array([-1, channels, height, width], np.int64),
        "means_1V": np.full((1, views), 1 / views, np.float32),
    }
    classes = sink.type.tensor_type.shape.dim[1].dim_value
    constants |= {
        "logits_BVK": np.array([-1, views, classes], np.int64),
        "logits_BK": np.array([-1, classes], np.int64),
    }
    node = helper.make_node
    # GridSample's plain interpolation was renamed with opset 20.
    mode = "linear" if opset >= 20 else "bilinear"
    before = [
        node("Cast", [source.name], ["pixels"], to=TensorProto.FLOAT),
        node("Shape", [source.name], ["rows"], end=1),
        node("Concat", ["rows", "grid_tail"], ["grid_to"], axis=0),
        node("Expand", ["grid", "grid_to"], ["grid_BVHW2"]),
        node("Reshape", ["grid_BVHW2", "grids_shape"], ["grids"]),
        node("Unsqueeze", ["pixels", "one"], ["pixels_B1CHW"]),
        node("Concat", ["rows", "image_tail"], ["image_to"], axis=0),
        node("Expand", ["pixels_B1CHW", "image_to"], ["pixels_BVCHW"]),
        node("Reshape", ["pixels_BVCHW", "images_shape"], ["images"]),
        node("GridSample", ["images", "grids"], ["moved"], mode=mode, padding_mode="border", align_corners=0),
        node("Round", ["moved"], ["rounded"]),
        node("Cast", ["rounded"], [f"view/{source.name}"], to=TensorProto.UINT8),
    ]
    after = [
        node("Reshape", [f"view/{sink.name}", "logits_BVK"], ["each"]),
        node("MatMul", ["means_1V", "each"], ["mean_B1K"]),
        node("Reshape", ["mean_B1K", "logits_BK"], [sink.name]),
    ]
    graph = helper.make_graph(
        [*before, *inner.graph.node, *after],
        "views",
        [source],
        [sink],
        [*inner.graph.initializer, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )
    made = helper.make_model(
        graph, opset_imports=inner.opset_import, functions=inner.functions, ir_version=inner.ir_version
    )
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def _only(values: Any, kind: str) -> Any:
    if len(values) != 1:
        raise ValueError(f"the graph has {len(values)} {kind}s; views are made of models with one")
    return values[0]


def _image_shape(source: Any) -> tuple[int, int, int]:
    from onnx import TensorProto

    sizes = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    if source.type.tensor_type.elem_type != TensorProto.UINT8 or len(sizes) != 4 or not all(sizes[1:]):
        raise ValueError(f"the graph's input {source.name!r} is no batch of uint8 images of one size")
    return sizes[1], sizes[2], sizes[3]
