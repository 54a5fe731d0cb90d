import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.training.data.own_data import png
from training.data.contents import MAX_IMAGE_BYTES, ImageContent, TextArrays, TextContent
from training.data.published import DataError
from training.data.rows import Fault, Sample
from training.data.tokenizer import UNKNOWN_ID, train_tokenizer
from training.encoding import MAX_TEXT_CHARACTERS, Encoder, ImageEncoding

GREY = ImageEncoding(4, 4, 1, ())
IMAGES = ImageContent(GREY)
TEXTS = TextContent(max_tokens=6, vocabulary_size=200)
LINES = ["the red fox", "a red fox and the hen", "the hen and a fox", "one two three four five six seven eight"]


def _bomb() -> bytes:
    """A PNG of a few bytes whose header promises 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_an_image_becomes_what_the_server_would_make_of_it() -> None:
    payloads = [png(1, side=9), png(2, side=4)]
    arrays = IMAGES.begin(("a", "b"), iter(()))
    assert arrays.encoding.labels == ("a", "b")
    samples = IMAGES.examine(payloads)
    encoded = arrays.encode([sample.content for sample in samples if isinstance(sample, Sample)])
    for payload, array in zip(payloads, encoded, strict=True):
        np.testing.assert_array_equal(array, Encoder(GREY).encode(payload))


def test_the_same_pixels_are_the_same_content_in_any_file() -> None:
    stream = io.BytesIO()
    Image.open(io.BytesIO(png(1))).save(stream, "png", compress_level=0, pnginfo=None)
    assert stream.getvalue() != png(1)
    one, other, different = IMAGES.examine([png(1), stream.getvalue(), png(2)])
    assert one == other != different


@pytest.mark.parametrize(
    ("payload", "kind", "reason"),
    [
        (None, "empty", "it has no bytes"),
        (b"", "empty", "it has no bytes"),
        (b"GIF89a", "corrupt", "not a PNG or JPEG image"),
        (png(1)[:60], "corrupt", "the image is damaged"),
        (_bomb(), "corrupt", "image of 40000x40000 pixels"),
        (bytes(MAX_IMAGE_BYTES + 1), "corrupt", "its file is larger than"),
    ],
)
def test_an_unusable_image_is_a_fault(payload: bytes | None, kind: str, reason: str) -> None:
    (found,) = IMAGES.examine([payload])
    assert isinstance(found, Fault)
    assert found.kind == kind
    assert reason in found.reason


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, "empty"),
        ("", "empty"),
        (" \n", "empty"),
        ("<br/> &nbsp;", "empty"),
        ("x" * (MAX_TEXT_CHARACTERS + 1), "corrupt"),
    ],
)
def test_an_unusable_text_is_a_fault(text: str | None, kind: str) -> None:
    good, found = TEXTS.examine(["fox", text])
    assert isinstance(good, Sample)
    assert isinstance(found, Fault)
    assert found.kind == kind


def test_texts_that_clean_to_the_same_are_one_content() -> None:
    one, other = TEXTS.examine(["Oracle #39;s offer", "oracle's\noffer"])
    assert isinstance(one, Sample)
    assert isinstance(other, Sample)
    assert one.key == other.key


def _arrays(content: TextContent) -> TextArrays:
    return content.begin(("a", "b"), (line.encode() for line in LINES))


def test_a_tokenizer_is_learned_from_the_train_texts() -> None:
    arrays = _arrays(TEXTS)
    assert arrays.files == {"tokenizer.json": train_tokenizer(LINES, 200)}
    (row, cut) = arrays.encode([b"the fox", LINES[3].encode()])
    expected = Encoder(arrays.encoding, arrays.files).encode("the fox")
    assert row is not None
    assert cut is not None
    assert row.tolist() == [*expected.tolist(), *[0] * (6 - len(expected))]
    assert (len(cut), cut.dtype) == (6, np.int64)


def test_whole_words_may_be_the_vocabulary() -> None:
    arrays = _arrays(TextContent(6, 200, vocabulary="words"))
    (row,) = arrays.encode([b"The fox met a crow"])
    assert row is not None
    assert (row == UNKNOWN_ID).sum() == 2  # met, crow
    statistics = arrays.statistics()
    assert statistics["vocabulary_size"] == 2 + 6  # the, a, and, fox, red, hen stand there twice
    assert statistics["unknown_share"] == pytest.approx(2 / 5)
    assert statistics["tokens_percentiles"]["50"] == 5


def test_a_vocabulary_of_words_is_the_same_each_time() -> None:
    made = {train_tokenizer(LINES, 6, min_frequency=1, vocabulary="words") for _ in range(3)}
    assert len(made) == 1


def test_statistics_tell_of_texts_at_the_limit() -> None:
    arrays = _arrays(TEXTS)
    arrays.encode([b"fox", LINES[3].encode()])
    assert arrays.statistics()["at_max_tokens_share"] == 0.5


def test_a_given_tokenizer_is_taken_as_it_is() -> None:
    given = train_tokenizer(["other words altogether"] * 3, 100)
    arrays = _arrays(TextContent(6, 200, tokenizer=given))
    assert arrays.files == {"tokenizer.json": given}


def test_a_text_without_tokens_is_none_and_spares_its_neighbours() -> None:
    given = json.loads(train_tokenizer(LINES, 200))
    given["normalizer"] = {"type": "Replace", "pattern": {"String": "hen"}, "content": ""}
    found = _arrays(TextContent(6, 200, tokenizer=json.dumps(given).encode())).encode([b"fox", b"hen", b"red"])
    assert [row is None for row in found] == [False, True, False]


def test_a_tokenizer_that_cannot_pad_is_refused() -> None:
    given = json.loads(train_tokenizer(LINES, 200))
    given["model"]["vocab"]["other"] = given["model"]["vocab"].pop("[PAD]")
    with pytest.raises(DataError, match=r"neither padding nor a token \[PAD\] or <pad>"):
        _arrays(TextContent(6, 200, tokenizer=json.dumps(given).encode()))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_what_is_no_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="tokenizer file cannot be read"):
        _arrays(TextContent(6, 200, tokenizer=content or b" "))
