"""Contents: images and texts, examined row by row while a source is read, and encoded when it is packed.

Shape suffixes: N rows, C channels, H height, W width, L tokens.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.published import DataError
from training.data.readers import text_keys
from training.data.rows import Fault, Sample
from training.data.tokenizer import PAD_TOKEN, Vocabulary, train_tokenizer
from training.encoding import (
    MAX_TEXT_CHARACTERS,
    Array,
    Encoder,
    Encoding,
    ImageEncoding,
    PayloadError,
    TextEncoding,
    encode_image,
)

MAX_IMAGE_BYTES = 64 * 2**20
NO_TEXT_KEY = hashlib.sha256(b"").digest()


@dataclass(frozen=True)
class ImageContent:
    """Image files become the pixels that `encoding` makes of them; its labels are not looked at."""

    encoding: ImageEncoding

    def examine(self, payloads: Sequence[bytes | None]) -> list[Sample | Fault]:
        return [self._examine(payload) for payload in payloads]

    def _examine(self, payload: bytes | None) -> Sample | Fault:
        if not payload:
            return Fault("empty", "it has no bytes")
        if len(payload) > MAX_IMAGE_BYTES:
            return Fault("corrupt", f"its file is larger than {MAX_IMAGE_BYTES} bytes")
        try:
            pixels = encode_image(self.encoding, payload).tobytes()
        except PayloadError as error:
            return Fault("corrupt", str(error))
        return Sample(hashlib.sha256(pixels).digest(), pixels)

    def begin(self, labels: tuple[str, ...], train: Iterable[bytes]) -> "ImageArrays":
        del train
        return ImageArrays(dataclasses.replace(self.encoding, labels=labels))


@dataclass(frozen=True)
class ImageArrays:
    encoding: ImageEncoding
    files: dict[str, bytes] = field(default_factory=dict)

    def encode(self, contents: Sequence[bytes]) -> list[Array | None]:
        shape = self.encoding.input_spec.shape[1:]
        return [np.frombuffer(content, np.uint8).reshape(shape) for content in contents]

    def statistics(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class TextContent:
    """Texts stay as they are until the train split is known, from which the tokenizer is learned; or `tokenizer`, the
    content of a tokenizers file, is taken. Without a `pad_id` it must say itself which id pads.
    """

    max_tokens: int
    vocabulary_size: int
    vocabulary: Vocabulary = "pieces"
    tokenizer: bytes | None = None
    pad_id: int | None = None

    def examine(self, payloads: Sequence[str | None]) -> list[Sample | Fault]:
        texts = [payload if payload and len(payload) <= MAX_TEXT_CHARACTERS else "" for payload in payloads]
        found: list[Sample | Fault] = []
        for payload, text, key in zip(payloads, texts, text_keys(texts), strict=True):
            if payload and not text:
                limit = MAX_TEXT_CHARACTERS
                found.append(Fault("corrupt", f"text of {len(payload)} characters; at most {limit} are read"))
            elif key == NO_TEXT_KEY:
                found.append(Fault("empty", "nothing of its text is left when cleaned"))
            else:
                found.append(Sample(key, text.encode()))
        return found

    def begin(self, labels: tuple[str, ...], train: Iterable[bytes]) -> "TextArrays":
        tokenizer = self.tokenizer
        if tokenizer is None:
            texts = (content.decode() for content in train)
            tokenizer = train_tokenizer(texts, self.vocabulary_size, vocabulary=self.vocabulary)
        pad_id, unknown_id = _special_ids(tokenizer)
        pad_id = pad_id if self.pad_id is None else self.pad_id
        if pad_id is None:
            raise DataError(
                f"the tokenizer has neither padding nor a token {PAD_TOKEN} or <pad>: add one to pad with, or give the "
                "folder of its model, whose tokenizer_config.json names what ends a text"
            )
        return TextArrays(TextEncoding(self.max_tokens, labels, pad_id), tokenizer, unknown_id)


class TextArrays:
    """Texts -> int64 token ids [L], padded to `max_tokens`, and what is to be known of their vocabulary."""

    def __init__(self, encoding: TextEncoding, tokenizer: bytes, unknown_id: int | None) -> None:
        self.encoding: Encoding = encoding
        self.files = {encoding.tokenizer_file: tokenizer}
        self._encoder = Encoder(encoding, self.files)
        self._max_tokens, self._pad_id, self._unknown_id = encoding.max_tokens, encoding.pad_id, unknown_id
        self._lengths: Counter[int] = Counter()
        self._unknown = 0

    def encode(self, contents: Sequence[bytes]) -> list[Array | None]:
        """One array a text; None for a text in which the tokenizer finds no token."""
        texts = [content.decode() for content in contents]
        try:
            tokens: list[Array | None] = list(self._encoder.encode_texts(texts))
        except PayloadError:
            tokens = [self._encode_one(text) for text in texts]
        return [None if ids is None else self._padded(ids) for ids in tokens]

    def _encode_one(self, text: str) -> Array | None:
        try:
            return self._encoder.encode_texts([text])[0]
        except PayloadError:
            return None

    def _padded(self, ids_L: Array) -> NDArray[np.int64]:
        self._lengths[len(ids_L)] += 1
        self._unknown += int((ids_L == self._unknown_id).sum()) if self._unknown_id is not None else 0
        row_L = np.full(self._max_tokens, self._pad_id, dtype=np.int64)
        row_L[: len(ids_L)] = ids_L
        return row_L

    def statistics(self) -> dict[str, Any]:
        """Of all rows: the vocabulary, the shares of unknown tokens and of texts at the limit, and lengths."""
        lengths = np.repeat(*(np.array(part) for part in zip(*sorted(self._lengths.items()), strict=True)))
        return {
            "vocabulary_size": self._encoder.vocabulary_size,
            "unknown_share": self._unknown / int(lengths.sum()),
            "at_max_tokens_share": self._lengths[self._max_tokens] / len(lengths),
            "tokens_percentiles": {str(p): int(np.percentile(lengths, p)) for p in (5, 50, 90, 95, 99)},
        }


def _special_ids(tokenizer: bytes) -> tuple[int | None, int | None]:
    """The ids that pad and that stand for the unknown, None for what it has not."""
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(tokenizer.decode())
        description = json.loads(tokenizer)
    # tokenizers raises plain Exceptions.
    except Exception as error:
        raise DataError(f"the tokenizer file cannot be read: {error}. Give a tokenizer.json of `tokenizers`") from error
    padding = description.get("padding") or {}
    pad_id = padding.get("pad_id", loaded.token_to_id(PAD_TOKEN))
    pad_id = loaded.token_to_id("<pad>") if pad_id is None else pad_id
    model = description.get("model") or {}
    unknown = model.get("unk_token")
    return pad_id, loaded.token_to_id(unknown) if isinstance(unknown, str) else model.get("unk_id")
