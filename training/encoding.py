"""Encoding: how one payload becomes one array, and how logits become an answer.

An Encoding is data (it travels inside an Artifact's manifest); `Encoder` is its one interpreter,
used by training, calibration, gate and server alike, so that they cannot disagree.

Shape suffixes: B batch, C channels or classes, H height, W width, L tokens.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin

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
# A JPEG's fast reduced decoding stays above this many pixels a side.
MIN_DECODED_SIDE = 192


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

    `polarity="light_on_dark"` inverts a payload that is drawn dark on light, as a photographed pen stroke is.
    `crop_to_content` finds the ink on its paper, whatever the light, and fits its bounding box into the frame
    with its aspect kept; otherwise the image is resized. `ink_share` then thickens or thins the strokes until
    they cover that share of the square around them, as they do in a set that normalised its pens. A payload
    that already has the frame's size is taken as framed: neither cropped nor resized.
    """

    height: int
    width: int
    channels: int
    labels: tuple[str, ...]
    polarity: Literal["as_is", "light_on_dark"] = "as_is"
    crop_to_content: bool = False
    ink_share: float | None = None
    kind: Literal["image"] = "image"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: an image has 1 (grey) or 3 (RGB)")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image size {self.height}x{self.width}: both sides must be at least 1 pixel")
        if self.crop_to_content and self.channels != 1:
            raise ValueError(f"crop_to_content with {self.channels} channels: ink is found in grey images only")
        if self.ink_share is not None and not (self.crop_to_content and 0 < self.ink_share < 1):
            raise ValueError(f"ink_share is {self.ink_share}: give a share between 0 and 1, with crop_to_content")

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

    @property
    def vocabulary_size(self) -> int | None:
        """How many token ids a text model knows; None for images."""
        return None if self._tokenizer is None else int(self._tokenizer.get_vocab_size())

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

    def decode_texts(self, tokens_BL: Array) -> list[str]:
        """Padded token ids -> texts to read: what the tokenizer cleaned away is gone, word pieces may stand apart."""
        if not isinstance(self.encoding, TextEncoding):
            raise ValueError(f"an Encoding of kind {self.encoding.kind!r} has no texts to decode")
        pad = self.encoding.pad_id
        texts: list[str] = self._tokenizer.decode_batch([row[row != pad].tolist() for row in tokens_BL])
        return texts

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
    frame = (encoding.width, encoding.height)
    image = _open_image(payload, max(*frame, MIN_DECODED_SIDE))
    image = image.convert("L" if encoding.channels == 1 else "RGB")
    if encoding.crop_to_content:
        return _encode_drawing(encoding, np.asarray(image, dtype=np.uint8))[None]
    if encoding.polarity == "light_on_dark" and _has_light_border(image):
        image = ImageOps.invert(image)
    if image.size != frame:
        image = image.resize(frame, Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if encoding.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _encode_drawing(encoding: ImageEncoding, grey_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # SciPy's filters are imported where a drawing is read: no other Encoding needs them.
    from training.ink import find_ink, fit_ink, is_dark_on_light, working_plane

    plane_HW = working_plane(grey_HW)
    dark = encoding.polarity == "light_on_dark" and is_dark_on_light(plane_HW)
    if grey_HW.shape == (encoding.height, encoding.width):
        return 255 - grey_HW if dark else grey_HW
    return fit_ink(find_ink(plane_HW if dark else 1 - plane_HW), encoding.height, encoding.width, encoding.ink_share)


def _open_image(payload: bytes, side: int) -> Image.Image:
    """Decode PNG or JPEG upright, at least `side` pixels wide and high where the file has them."""
    # The file classes themselves, not Image.open: nothing is allocated or warned of before the size is checked.
    opener = next((opener for magic, opener in _FILE_OPENERS.items() if payload.startswith(magic)), None)
    if opener is None:
        raise PayloadError(f"not a PNG or JPEG image: {len(payload)} bytes that start with {payload[:8]!r}")
    try:
        image = opener(io.BytesIO(payload))
    # Pillow's parsers raise nearly anything on a damaged file.
    except Exception as error:
        raise PayloadError(f"the image's header is damaged: {error}") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise PayloadError(f"image of {image.width}x{image.height} pixels; at most {MAX_IMAGE_PIXELS} are decoded")
    try:
        # A large JPEG is decoded at a half, a quarter or an eighth of its size, which is all that is looked at.
        image.draft(image.mode, (2 * side, 2 * side))
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:
        raise PayloadError(f"the image is damaged: {error}") from error
    return _on_paper(upright)


def _on_paper(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # A drawing saved with a transparent ground is meant to lie on paper.
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if image.mode.startswith("I"):
        # Sixteen bits of grey: Pillow's own conversion would cut off all but the darkest 255 levels.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image


def _has_light_border(image: Image.Image) -> bool:
    grey = np.asarray(image.convert("L"))
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool(np.median(border) > 127)


_FILE_OPENERS: dict[bytes, Callable[[io.BytesIO], Image.Image]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
}
