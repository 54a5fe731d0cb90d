"""What a payload becomes, and what becomes of a payload that is none."""

import contextlib
import io
import json
import struct
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.encoding import (
    MAX_IMAGE_PIXELS,
    MAX_TEXT_CHARACTERS,
    Encoder,
    ImageEncoding,
    PayloadError,
    TensorSpec,
    TextEncoding,
    encode_image,
    encoding_from_json,
    encoding_to_json,
    output_spec,
    softmax,
)

GREY = ImageEncoding(height=4, width=6, channels=1, labels=("a", "b"))
COLOUR = replace(GREY, channels=3)
DIGITS = ImageEncoding(8, 8, 1, tuple("0123456789"), "light_on_dark", crop_to_content=True, ink_share=0.3)
TEXT = TextEncoding(max_tokens=3, labels=("no", "yes"))
STATIC = Path(__file__).parents[2] / "apps" / "static"


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(mode="L", size=(6, 4)):
    """Left half dark, right half light; the top row of it white."""
    pixels = np.full((size[1], size[0]), 40, np.uint8)
    pixels[:, size[0] // 2 :] = 200
    pixels[0] = 255
    return Image.fromarray(pixels).convert(mode)


def png_claiming(width, height):
    """A PNG of a few dozen bytes whose header claims any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class TestFiles:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
    def test_a_png_of_every_mode_gives_its_pixels(self, mode):
        image = quarters("L").point(lambda value: 255 * (value > 100)).convert(mode)
        expected = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(encode_image(GREY, file_of(image))[0], expected)
        np.testing.assert_array_equal(encode_image(COLOUR, file_of(image)), np.stack([expected] * 3))

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_a_jpeg_gives_nearly_its_pixels(self, mode):
        big = Image.new("L", (60, 40), 180).convert(mode)
        pixels = encode_image(GREY, file_of(big, "JPEG", quality=95))
        assert pixels.shape == (1, 4, 6) and pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels, 180, atol=3)

    def test_colours_keep_their_channel(self):
        image = Image.new("RGB", (6, 4), (250, 100, 3))
        assert encode_image(COLOUR, file_of(image))[:, 0, 0].tolist() == [250, 100, 3]

    def test_sixteen_bits_keep_their_upper_eight(self):
        ramp = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
        np.testing.assert_array_equal(encode_image(GREY, file_of(Image.fromarray(ramp)))[0], ramp >> 8)

    def test_a_transparent_ground_is_paper(self):
        image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
        image.putpixel((2, 1), (0, 0, 0, 255))
        pixels = encode_image(GREY, file_of(image))[0]
        assert pixels[1, 2] == 0 and (pixels == 255).sum() == 23

    def test_a_palette_with_a_transparent_colour_is_on_paper_too(self):
        image = Image.new("P", (6, 4), 0)
        image.putpalette([10, 10, 10, 20, 20, 20])
        image.putpixel((0, 0), 1)
        pixels = encode_image(GREY, file_of(image, transparency=0))[0]
        assert pixels[0, 0] == 20 and pixels[3, 5] == 255

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_a_photograph_is_turned_upright(self, kind):
        upright = quarters("L", (60, 40))
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its left side: turn clockwise to see it
        lying = upright.transpose(Image.Transpose.ROTATE_90)
        turned = encode_image(GREY, file_of(lying, kind, exif=exif))
        np.testing.assert_allclose(turned, encode_image(GREY, file_of(upright)), atol=6)

    def test_an_image_is_resized_by_area(self):
        checker = Image.fromarray(np.indices((40, 60)).sum(axis=0).astype(np.uint8) % 2 * 200)
        np.testing.assert_allclose(encode_image(GREY, file_of(checker)), 100, atol=1)


class TestRefusals:
    @pytest.mark.parametrize(
        "payload",
        [b"", b"hello", b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0" + bytes(99)],
    )
    def test_what_is_no_image_is_refused(self, payload):
        with pytest.raises(PayloadError):
            encode_image(GREY, payload)

    def test_another_image_format_is_refused_by_name_of_what_is_read(self):
        with pytest.raises(PayloadError, match="not a PNG or JPEG"):
            encode_image(GREY, file_of(quarters(), "BMP"))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_a_truncated_image_is_refused_wherever_it_ends(self, kind):
        noise = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
        payload = file_of(Image.fromarray(noise), kind)
        for end in range(8, len(payload) - 20, len(payload) // 40):
            with pytest.raises(PayloadError):
                encode_image(GREY, payload[:end])

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_damaged_bytes_are_read_or_refused_and_nothing_else(self, kind):
        rng = np.random.default_rng(1)
        exif = Image.Exif()
        exif[0x0112] = 6
        intact = np.frombuffer(file_of(quarters("RGB", (30, 20)), kind, exif=exif), np.uint8)
        for _ in range(400):
            damaged = intact.copy()
            places = rng.integers(2, len(damaged), rng.integers(1, 12))
            damaged[places] = rng.integers(0, 256, len(places))
            with contextlib.suppress(PayloadError):
                assert encode_image(DIGITS, damaged.tobytes()).shape == (1, 8, 8)

    @pytest.mark.parametrize("side", [50_000, 10_000, 2**31 - 1])
    def test_a_decompression_bomb_is_refused_before_it_is_decoded(self, side):
        payload = png_claiming(side, side)
        assert len(payload) < 200
        tracemalloc.start()
        started = time.perf_counter()
        with pytest.raises(PayloadError, match="pixels"):
            encode_image(GREY, payload)
        elapsed_s = time.perf_counter() - started
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert elapsed_s < 1 and peak_bytes < 1_000_000

    def test_the_pixel_limit_is_exact(self):
        over = png_claiming(MAX_IMAGE_PIXELS // 1000 + 1, 1000)
        with pytest.raises(PayloadError, match=f"at most {MAX_IMAGE_PIXELS}"):
            encode_image(GREY, over)
        # At the limit it goes on to the pixels, which this file does not have.
        with pytest.raises(PayloadError, match="damaged"):
            encode_image(GREY, png_claiming(MAX_IMAGE_PIXELS // 1000, 1000))

    def test_text_for_an_image_model_is_refused(self):
        with pytest.raises(PayloadError, match="image file"):
            Encoder(GREY).encode("seven")


class TestPolarity:
    def test_dark_on_light_is_inverted_and_light_on_dark_kept(self):
        encoding = replace(GREY, height=10, width=10, polarity="light_on_dark")
        drawing = np.full((10, 10), 230, np.uint8)
        drawing[3:7, 4:6] = 20
        inverted = encode_image(encoding, file_of(Image.fromarray(drawing)))[0]
        np.testing.assert_array_equal(inverted, 255 - drawing)
        kept = encode_image(encoding, file_of(Image.fromarray(255 - drawing)))[0]
        np.testing.assert_array_equal(kept, 255 - drawing)

    def test_as_is_is_never_inverted(self):
        assert encode_image(GREY, file_of(Image.new("L", (6, 4), 250))).min() == 250

    def test_drawings_are_told_apart_in_both_polarities(self, digits):
        images, _ = digits
        for pixels in images[:200]:
            for shown in (pixels, 255 - pixels):
                np.testing.assert_array_equal(encode_image(DIGITS, file_of(Image.fromarray(shown)))[0], pixels)


def stroke(height=200, width=200, top=60, left=80, size=(90, 12), ink=40, paper=220):
    """A vertical bar on paper."""
    pixels = np.full((height, width), paper, np.uint8)
    pixels[top : top + size[0], left : left + size[1]] = ink
    return pixels


class TestDrawings:
    @pytest.mark.parametrize(("top", "left"), [(2, 2), (60, 80), (105, 180)])
    def test_the_drawing_is_cropped_and_centred_wherever_it_is(self, top, left):
        encoding = replace(DIGITS, ink_share=None)
        pixels = encode_image(encoding, file_of(Image.fromarray(stroke(top=top, left=left))))[0]
        assert pixels.min(axis=1).tolist() == [0] * 8, "the sides are empty"
        assert (pixels.max(axis=1) > 100).all(), "it fills the height"
        np.testing.assert_allclose(pixels, pixels[:, ::-1], atol=30)

    def test_a_lying_stroke_fills_the_width_with_its_aspect_kept(self):
        encoding = replace(DIGITS, ink_share=None)
        pixels = encode_image(encoding, file_of(Image.fromarray(stroke().T.copy())))[0]
        assert (pixels.max(axis=0) > 100).all() and pixels[:3].max() == 0 and pixels[5:].max() == 0

    @pytest.mark.parametrize("width", [5, 12, 25, 40])
    def test_the_pen_width_does_not_matter(self, width):
        pixels = encode_image(DIGITS, file_of(Image.fromarray(stroke(size=(110, width)))))[0]
        assert 0.24 < pixels.mean() / 255 < 0.4

    @pytest.mark.parametrize("paper", [255, 128, 3])
    def test_a_blank_sheet_is_an_empty_frame(self, paper):
        assert not encode_image(DIGITS, file_of(Image.new("L", (120, 90), paper))).any()

    def test_paper_grain_is_no_ink(self):
        grain = np.random.default_rng(0).normal(200, 3, (150, 150)).astype(np.uint8)
        assert not encode_image(DIGITS, file_of(Image.fromarray(grain))).any()

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (3000, 20)])
    def test_extreme_shapes_are_read(self, size):
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        assert encode_image(DIGITS, file_of(Image.fromarray(noise))).shape == (1, 8, 8)

    @pytest.mark.parametrize("side", ["left", "top", "corner"])
    def test_a_shadow_across_the_paper_is_no_ink(self, side):
        clean = stroke()
        shade = np.ones(clean.shape)
        rows, columns = np.indices(clean.shape)
        dark = {"left": columns < 60, "top": rows < 90, "corner": rows + columns < 190}[side]
        shade[dark] = 0.5
        shadowed = (clean * shade).astype(np.uint8)
        expected = encode_image(DIGITS, file_of(Image.fromarray(clean)))
        np.testing.assert_allclose(encode_image(DIGITS, file_of(Image.fromarray(shadowed))), expected, atol=60)

    def test_a_speck_of_dirt_is_no_ink(self):
        dirty = stroke()
        dirty[10:13, 10:13] = 60
        expected = encode_image(DIGITS, file_of(Image.fromarray(stroke())))
        np.testing.assert_array_equal(encode_image(DIGITS, file_of(Image.fromarray(dirty))), expected)


@pytest.fixture(scope="module")
def digits():
    """The digits set as bytes [N, 8, 8], and its labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target


@pytest.fixture(scope="module")
def reader(digits):
    """A classifier that has seen the even rows of the digits set and nothing that was encoded."""
    from sklearn.svm import SVC

    images, labels = digits
    model = SVC(C=10, gamma=0.001).fit(images[::2].reshape(-1, 64) / 16, labels[::2])
    return lambda encoded: model.predict(np.stack(encoded).reshape(-1, 64) / 16)


def photographs(images, rng):
    """Each image as dark ink on grey paper: off-centre, unevenly lit, noisy, as a JPEG."""
    for pixels in images:
        ink = np.zeros((220, 200))
        top, left = rng.integers(10, 80), rng.integers(10, 60)
        ink[top : top + 128, left : left + 128] = np.asarray(
            Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC)
        )
        rows, columns = np.indices(ink.shape)
        light = 210 - 0.3 * rows + 0.2 * columns
        light = np.where(rows + columns > 330, light * 0.7, light)
        photograph = light * (1 - 0.75 * ink / 255) + rng.normal(0, 4, ink.shape)
        yield file_of(Image.fromarray(np.clip(photograph, 0, 255).astype(np.uint8)), "JPEG", quality=60)


class TestRealDigits:
    def test_digits_shown_large_and_dark_on_light_come_back_nearly_as_they_were(self, digits):
        images, labels = digits
        for label in range(10):
            errors = []
            for pixels in images[labels == label][:10]:
                shown = Image.fromarray(255 - pixels).resize((160, 160), Image.Resampling.BICUBIC)
                errors.append(np.abs(encode_image(DIGITS, file_of(shown))[0].astype(int) - pixels).mean())
            assert np.mean(errors) < 30, f"digit {label} is {np.mean(errors):.1f} of 255 away"

    def test_photographed_digits_are_read_right(self, digits, reader):
        images, labels = digits
        rng = np.random.default_rng(0)
        # Of the odd rows, which the reader has not seen, and of many writers.
        chosen = np.concatenate([rng.choice(np.flatnonzero(labels[1::2] == label), 12) for label in range(10)]) * 2 + 1
        payloads = photographs(images[chosen], rng)
        right = reader([encode_image(DIGITS, payload) for payload in payloads]) == labels[chosen]
        assert right.mean() >= 0.9
        assert right.reshape(10, 12).mean(axis=1).min() >= 0.6

    @pytest.mark.parametrize("ink_share", [None, 0.3])
    def test_the_shipped_sample_is_read_as_a_three(self, reader, ink_share):
        payload = (STATIC / "sample_digit.png").read_bytes()
        assert len(payload) < 30_000
        assert reader([encode_image(replace(DIGITS, ink_share=ink_share), payload)]).tolist() == [3]


class TestEncodings:
    @pytest.mark.parametrize("encoding", [GREY, COLOUR, DIGITS, TEXT])
    def test_json_and_back_is_the_same(self, encoding):
        assert encoding_from_json(json.loads(json.dumps(encoding_to_json(encoding)))) == encoding

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "sound"}, "'sound' is not one of image, text"),
            ({"kind": None}, "is not one of"),
            ({"depth": 3}, "depth"),
            ({"channels": 2}, "channels is 2"),
            ({"height": 0}, "at least 1 pixel"),
            ({"ink_share": 0.3}, "with crop_to_content"),
            ({"crop_to_content": True, "ink_share": 1.5}, "between 0 and 1"),
            ({"crop_to_content": True, "channels": 3}, "grey"),
        ],
    )
    def test_what_cannot_be_read_is_refused_by_name(self, change, message):
        with pytest.raises(ValueError, match=message):
            encoding_from_json({**encoding_to_json(GREY), **change})

    def test_missing_labels_are_refused(self):
        data = encoding_to_json(GREY)
        del data["labels"]
        with pytest.raises(ValueError, match="labels"):
            encoding_from_json(data)

    def test_specs_say_what_goes_in_and_out(self):
        assert COLOUR.input_spec == TensorSpec("image", "UINT8", (-1, 3, 4, 6))
        assert TEXT.input_spec == TensorSpec("tokens", "INT64", (-1, -1))
        assert output_spec(DIGITS) == TensorSpec("logits", "FP32", (-1, 10))
        assert COLOUR.input_spec.admits((5, 3, 4, 6)) and not COLOUR.input_spec.admits((5, 3, 6, 4))
        assert not COLOUR.input_spec.admits((3, 4, 6))

    def test_an_unknown_datatype_is_refused(self):
        with pytest.raises(ValueError, match="INT9"):
            TensorSpec("image", "INT9", (1,))


@pytest.fixture(scope="module")
def reader_of_words():
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[PAD]": 0, "good": 1, "bad": 2, "very": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Encoder(TEXT, {"tokenizer.json": tokenizer.to_str().encode()})


class TestTexts:
    def test_words_become_ids_cut_at_the_limit(self, reader_of_words):
        ids = reader_of_words.encode("very very good bad")
        assert ids.tolist() == [3, 3, 1] and ids.dtype == np.int64

    def test_a_batch_is_padded_to_its_longest(self, reader_of_words):
        batch = reader_of_words.collate(reader_of_words.encode_texts(["good", "very bad"]))
        assert batch.tolist() == [[1, 0], [3, 2]] and batch.dtype == np.int64

    @pytest.mark.parametrize("text", ["", "   "])
    def test_a_text_without_a_token_is_refused(self, reader_of_words, text):
        with pytest.raises(PayloadError, match="no token"):
            reader_of_words.encode(text)

    def test_an_oversized_text_is_refused_and_one_at_the_limit_read(self, reader_of_words):
        with pytest.raises(PayloadError, match=str(MAX_TEXT_CHARACTERS)):
            reader_of_words.encode("a" * (MAX_TEXT_CHARACTERS + 1))
        assert reader_of_words.encode("good" + " " * (MAX_TEXT_CHARACTERS - 4)).tolist() == [1]

    def test_bytes_for_a_text_model_are_refused(self, reader_of_words):
        with pytest.raises(PayloadError, match="reads text"):
            reader_of_words.encode(b"good")

    def test_a_text_encoding_without_its_tokenizer_is_refused(self):
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Encoder(TEXT)

    def test_a_limit_below_one_token_is_refused(self):
        with pytest.raises(ValueError, match="max_tokens is 0"):
            replace(TEXT, max_tokens=0)


class TestAnswers:
    def test_images_are_stacked(self):
        batch = Encoder(GREY).collate([np.zeros((1, 4, 6), np.uint8), np.ones((1, 4, 6), np.uint8)])
        assert batch.shape == (2, 1, 4, 6) and batch.dtype == np.uint8

    def test_the_most_probable_label_comes_first_and_ties_keep_their_order(self):
        answer = Encoder(replace(GREY, labels=("a", "b", "c", "d"))).answer(np.array([1, 3, 3, -2], np.float32))
        assert [item.label for item in answer] == ["b", "c", "a", "d"]
        assert sum(item.probability for item in answer) == pytest.approx(1)

    def test_temperature_softens_and_keeps_the_order(self):
        encoder = Encoder(GREY)
        sharp, soft = (encoder.answer(np.array([2.0, 0.0], np.float32), temperature)[0] for temperature in (1, 4))
        assert sharp.label == soft.label == "a" and sharp.probability > soft.probability > 0.5

    @pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
    def test_softmax_stays_finite_and_sums_to_one(self, scale):
        logits = np.array([[1, 2, 3], [-3, -3, -3]], np.float32) * np.float32(scale)
        probabilities = softmax(logits)
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        np.testing.assert_allclose(probabilities[1], 1 / 3)
