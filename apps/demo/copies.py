"""Copies: a grey-image classifier that answers with the mean over shifted, turned and scaled copies, as one graph.

For images so small that whole pixels are too far: the copies are resampled, which is linear in the pixels, so all of
them are one matrix product.

Shape suffixes: B rows, K copies, P pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.artifact import Artifact
from training.encoding import ImageEncoding

# The ranges of the digits recipe's augmentation.
SHIFT, ROTATE_DEGREES, SCALE = 0.1, 10.0, 0.1


def resampling(height: int, width: int, copies: int, seed: int = 0) -> NDArray[np.float32]:
    """[P, K * P]: an image's pixels times this are those of its copies, bilinearly; the first copy is the image."""
    random = np.random.default_rng(seed)
    shifts_K2 = random.uniform(-SHIFT, SHIFT, (copies, 2)) * (height, width)
    angles_K = np.deg2rad(random.uniform(-ROTATE_DEGREES, ROTATE_DEGREES, copies))
    scales_K = random.uniform(1 - SCALE, 1 + SCALE, copies)
    shifts_K2[0], angles_K[0], scales_K[0] = 0.0, 0.0, 1.0
    ys_P, xs_P = (axis.ravel() for axis in np.mgrid[:height, :width])
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    weights = np.zeros((height * width, copies, height * width), np.float32)
    for k in range(copies):
        sine, cosine = np.sin(angles_K[k]) / scales_K[k], np.cos(angles_K[k]) / scales_K[k]
        y_P = cosine * (ys_P - middle_y) - sine * (xs_P - middle_x) + middle_y + shifts_K2[k, 0]
        x_P = sine * (ys_P - middle_y) + cosine * (xs_P - middle_x) + middle_x + shifts_K2[k, 1]
        low_y, low_x = np.floor(y_P).astype(int), np.floor(x_P).astype(int)
        for y, x in ((low_y + down, low_x + right) for down in (0, 1) for right in (0, 1)):
            weight_P = (1 - np.abs(y_P - y)) * (1 - np.abs(x_P - x))
            # What lies outside of the image is dark.
            inside_P = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (weight_P > 1e-9)
            weights[(y * width + x)[inside_P], k, np.flatnonzero(inside_P)] += weight_P[inside_P]
    return weights.reshape(height * width, -1)


def averaged_over_copies(teacher: Artifact, copies: int) -> bytes:
    """The teacher's ONNX graph with `copies` of each image before it and their mean logits behind it.

    Raises ValueError where it does not read grey images.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    encoding = teacher.manifest.encoding
    if not isinstance(encoding, ImageEncoding) or encoding.channels != 1:
        raise ValueError(f"{teacher.manifest.name} is no model of grey images: the demo makes no copies of its inputs")
    model = onnx.load(teacher.model_path)
    inner, (image, logits) = model.graph, (teacher.manifest.input.name, teacher.manifest.output.name)
    renamed = {image: "image_of_copies", logits: "logits_of_copies"}
    for node in inner.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    height, width, classes = encoding.height, encoding.width, len(encoding.labels)
    constants: dict[str, NDArray[Any]] = {
        "copies_flat": np.array([-1, height * width], np.int64),
        "copies_resampling": resampling(height, width, copies),
        "copies_images": np.array([-1, 1, height, width], np.int64),
        "copies_by_image": np.array([-1, copies, classes], np.int64),
        "copies_mean": np.full((1, copies), 1 / copies, np.float32),
        "copies_rows": np.array([-1, classes], np.int64),
        "copies_dark": np.array(0, np.float32),
        "copies_bright": np.array(255, np.float32),
    }
    node = helper.make_node
    before = [
        node("Cast", [image], ["copies_float"], to=TensorProto.FLOAT),
        node("Reshape", ["copies_float", "copies_flat"], ["copies_pixels"]),
        node("MatMul", ["copies_pixels", "copies_resampling"], ["copies_copied"]),
        node("Reshape", ["copies_copied", "copies_images"], ["copies_shaped"]),
        node("Round", ["copies_shaped"], ["copies_rounded"]),
        node("Clip", ["copies_rounded", "copies_dark", "copies_bright"], ["copies_clipped"]),
        node("Cast", ["copies_clipped"], [renamed[image]], to=TensorProto.UINT8),
    ]
    after = [
        node("Reshape", [renamed[logits], "copies_by_image"], ["copies_logits"]),
        node("MatMul", ["copies_mean", "copies_logits"], ["copies_means"]),
        node("Reshape", ["copies_means", "copies_rows"], [logits]),
    ]
    nodes = [*before, *inner.node, *after]
    del inner.node[:], inner.value_info[:]
    inner.node.extend(nodes)
    inner.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
