"""Encoding: how one payload becomes one array, and how logits become an answer.

An Encoding is data (it travels inside an Artifact's manifest); `Encoder` is its one interpreter,
used by training, calibration, gate and server alike, so that they cannot disagree.

Shape suffixes: B batch, C channels or classes, H height, W width, L tokens.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

# Open Inference Protocol V2 tensor datatypes and their numpy equivalents.
NUMPY_OF_DATATYPE: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}

MAX_IMAGE_PIXELS = 20_000_000
MAX_TEXT_CHARACTERS = 100_000


class PayloadError(ValueError):
    """A payload that its Encoding cannot read; the message says what was wrong with it."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, V2 datatype and shape of one tensor; -1 marks a dynamic axis, the batch axis is first."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.datatype not in NUMPY_OF_DATATYPE:
            raise ValueError(
                f"tensor {self.name!r}: datatype {self.datatype!r} is not one of {', '.join(NUMPY_OF_DATATYPE)}"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        return NUMPY_OF_DATATYPE[self.datatype]

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether an array of `shape` fits; a dynamic axis takes any size."""
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ImageEncoding:
    """An image payload becomes uint8 [C, H, W]; scaling to floats happens inside the model's graph.

    `polarity="light_on_dark"` inverts a payload whose border is lighter than its middle grey, as a
    photographed pen stroke is. `crop_to_content` cuts to the bounding box of what differs from the
    background and fits that into the frame with its aspect kept; otherwise the image is resized.
    """

    height: int
    width: int
    channels: int
    labels: tuple[str, ...]
    polarity: Literal["as_is", "light_on_dark"] = "as_is"
    crop_to_content: bool = False
    kind: Literal["image"] = "image"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: an image has 1 (grey) or 3 (RGB)")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image size {self.height}x{self.width}: both sides must be at least 1 pixel")

    @property
    def input_spec(self) -> TensorSpec:
        return TensorSpec("image", "UINT8", (-1, self.channels, self.height, self.width))


@dataclass(frozen=True)
class TextEncoding:
    """A text payload becomes int64 token ids [L], cut at `max_tokens`; a batch is padded with `pad_id`."""

    max_tokens: int
    labels: tuple[str, ...]
    pad_id: int = 0
    tokenizer_file: str = "tokenizer.json"
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}: a text needs at least one token")

    @property
    def input_spec(self) -> TensorSpec:
        return TensorSpec("tokens", "INT64", (-1, -1))


Encoding = ImageEncoding | TextEncoding


def output_spec(encoding: Encoding) -> TensorSpec:
    """Every model answers float32 logits [B, classes]."""
    return TensorSpec("logits", "FP32", (-1, len(encoding.labels)))


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    return asdict(encoding)


def encoding_from_json(data: Mapping[str, Any]) -> Encoding:
    """Inverse of `encoding_to_json`; raises ValueError on an unknown kind or field."""
    kinds: dict[str, type[ImageEncoding] | type[TextEncoding]] = {"image": ImageEncoding, "text": TextEncoding}
    kind = data.get("kind")
    if kind not in kinds:
        raise ValueError(f"encoding kind {kind!r} is not one of {', '.join(kinds)}")
    try:
        return kinds[kind](**{**data, "labels": tuple(data["labels"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"encoding of kind {kind!r} cannot be read: {error}") from error


@dataclass(frozen=True)
class LabelProbability:
    label: str
    probability: float


def softmax(logits_BC: Array, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities over the last axis, of logits divided by `temperature`."""
    scaled = logits_BC.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


class Encoder:
    """Reads an Encoding. `files` maps the names that a text Encoding uses (its tokenizer) to contents."""

    def __init__(self, encoding: Encoding, files: Mapping[str, bytes] | None = None) -> None:
        self.encoding = encoding
        self._tokenizer: Any = None
        if isinstance(encoding, TextEncoding):
            from tokenizers import Tokenizer

            if not files or encoding.tokenizer_file not in files:
                raise ValueError(f"a text Encoding needs its tokenizer file {encoding.tokenizer_file!r}")
            self._tokenizer = Tokenizer.from_str(files[encoding.tokenizer_file].decode())
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(encoding.max_tokens)

    def encode(self, payload: bytes | str) -> Array:
        """One payload (image file bytes, or text) -> one array without batch axis; raises PayloadError."""
        if isinstance(self.encoding, TextEncoding):
            if not isinstance(payload, str):
                raise PayloadError(f"this model reads text; got {type(payload).__name__}")
            return self.encode_texts([payload])[0]
        if not isinstance(payload, bytes):
            raise PayloadError(f"this model reads an image file (PNG or JPEG); got {type(payload).__name__}")
        return encode_image(self.encoding, payload)

    def encode_texts(self, texts: Sequence[str]) -> list[Array]:
        """Many texts at once -> int64 token ids [L] each; raises PayloadError on an empty or oversized one."""
        for text in texts:
            if len(text) > MAX_TEXT_CHARACTERS:
                raise PayloadError(f"text of {len(text)} characters; at most {MAX_TEXT_CHARACTERS} are read")
        tokens = [np.asarray(item.ids, dtype=np.int64) for item in self._tokenizer.encode_batch(list(texts))]
        for text, ids in zip(texts, tokens, strict=True):
            if not ids.size:
                raise PayloadError(f"text {text[:40]!r} holds no token; send at least one word")
        return tokens

    def collate(self, arrays: Sequence[Array]) -> Array:
        """Arrays of single payloads -> one batch [B, ...]; texts are padded to the longest."""
        if isinstance(self.encoding, ImageEncoding):
            return np.stack(arrays)
        longest = max(len(array) for array in arrays)
        batch_BL = np.full((len(arrays), longest), self.encoding.pad_id, dtype=np.int64)
        for row, array in zip(batch_BL, arrays, strict=True):
            row[: len(array)] = array
        return batch_BL

    def answer(self, logits_C: Array, temperature: float = 1.0) -> list[LabelProbability]:
        """Logits of one row -> every label with its probability, the most probable first."""
        probabilities_C = softmax(logits_C, temperature)
        order = np.argsort(-probabilities_C, kind="stable")
        return [LabelProbability(self.encoding.labels[i], float(probabilities_C[i])) for i in order]


def encode_image(encoding: ImageEncoding, payload: bytes) -> NDArray[np.uint8]:
    """Image file bytes -> uint8 [C, H, W]; raises PayloadError on what is no image or too large."""
    image = _open_image(payload).convert("L" if encoding.channels == 1 else "RGB")
    if encoding.polarity == "light_on_dark" and _is_dark_on_light(image):
        image = Image.eval(image, lambda value: 255 - value)
    if encoding.crop_to_content:
        image = _fit_content(image, encoding.height, encoding.width)
    else:
        image = image.resize((encoding.width, encoding.height), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if encoding.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _open_image(payload: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(payload), formats=("PNG", "JPEG"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PayloadError(f"not a PNG or JPEG image ({len(payload)} bytes): {error}") from error
    pixels = image.width * image.height
    if pixels > MAX_IMAGE_PIXELS:
        raise PayloadError(f"image of {image.width}x{image.height} pixels; at most {MAX_IMAGE_PIXELS} are decoded")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise PayloadError(f"the image is damaged: {error}") from error
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # A drawing saved with a transparent ground is meant to lie on paper.
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image


def _is_dark_on_light(image: Image.Image) -> bool:
    grey = np.asarray(image.convert("L"))
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool(np.median(border) > 127)


def _fit_content(image: Image.Image, height: int, width: int) -> Image.Image:
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    # Half-way between ground and ink, so that paper grain and JPEG noise stay outside the box.
    level = (np.median(grey) + grey.max()) / 2
    rows, columns = np.nonzero(grey > level)
    frame = Image.new(image.mode, (width, height))
    if not rows.size or grey.max() - np.median(grey) < 16:
        return frame
    content = image.crop((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    scale = min(height / content.height, width / content.width)
    size = (max(1, round(content.width * scale)), max(1, round(content.height * scale)))
    content = content.resize(size, Image.Resampling.BOX)
    ground = float(np.median(grey))
    top = float(np.asarray(content.convert("L")).max())
    if top > ground:
        content = Image.eval(content, lambda value: max(0, min(255, round((value - ground) * 255 / (top - ground)))))
    frame.paste(content, ((width - size[0]) // 2, (height - size[1]) // 2))
    return frame
