import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from training.data.tokenizer import PAD_ID, clean, train_tokenizer
from training.encoding import Encoder, PayloadError, TextEncoding

TEXTS = [f"Story {number % 17}: the quick brown fox won match number {number} in Zürich." for number in range(200)]


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    return train_tokenizer(TEXTS, vocabulary_size=300)


@pytest.fixture(scope="module")
def encoder(tokenizer: bytes) -> Encoder:
    return Encoder(TextEncoding(max_tokens=32, labels=("a", "b")), {"tokenizer.json": tokenizer})


def test_the_same_texts_give_the_same_bytes(tokenizer: bytes) -> None:
    assert train_tokenizer(TEXTS, vocabulary_size=300) == tokenizer


def test_another_process_with_another_number_of_threads_gives_the_same_bytes(tokenizer: bytes) -> None:
    code = (
        "import sys; from training.data.tokenizer import train_tokenizer; "
        "sys.stdout.buffer.write(train_tokenizer(sys.stdin.read().splitlines(), 300))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(TEXTS).encode(),
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONUTF8": "1"},
    )
    assert made.stdout == tokenizer


def test_the_vocabulary_keeps_its_size() -> None:
    assert Tokenizer.from_str(train_tokenizer(TEXTS, vocabulary_size=60).decode()).get_vocab_size() == 60


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Oracle #39;s offer", "oracle's offer"),
        ("Oracle&#39;s offer", "oracle's offer"),
        ("the quot;best quot; deal", "the  best   deal"),
        ("&lt;A HREF=&quot;x.asp&quot;&gt;MSFT&lt;/A&gt;", " msft "),
        ("<A HREF='x.asp'>MSFT</A>", " msft "),
        ("Oracle\u2019s offer", "oracle's offer"),
        ("AT amp;T", "at &t"),
        ("one\\two", "one two"),
        ("Zürich Çelik", "zurich celik"),
        ("war#151;peace", "war peace"),
        ("if a < b then", "if a < b then"),
    ],
)
def test_remains_of_html_are_cleaned(raw: str, plain: str) -> None:
    assert clean([raw]) == [plain]


def test_cleaning_travels_inside_the_tokenizer(encoder: Encoder) -> None:
    assert encoder.encode("the FOX #39;s <b>match</b>").tolist() == encoder.encode("The fox's match").tolist()


@pytest.mark.parametrize("text", ["[PAD]", "[PAD] [PAD]", "fox [PAD] fox", "<pad>"])
def test_no_text_reaches_the_padding_id(encoder: Encoder, text: str) -> None:
    try:
        assert PAD_ID not in encoder.encode(text)
    except PayloadError:
        assert text == "<pad>"


def test_a_text_that_is_nothing_once_cleaned_is_refused(encoder: Encoder) -> None:
    with pytest.raises(PayloadError, match="no token"):
        encoder.encode("<br> \\ ")


@pytest.mark.parametrize("piece", [" ", "<", "&", "#", "<a", "&#3", "\\", "a", "ﷺ"])
def test_no_request_of_full_length_takes_long(encoder: Encoder, piece: str) -> None:
    text = (piece * 100_000)[:99_990] + " fox"
    begin = time.perf_counter()
    encoder.encode(text)
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(("texts", "size"), [([], 100), (TEXTS, 2)])
def test_training_on_nothing_is_refused(texts: list[str], size: int) -> None:
    with pytest.raises(ValueError, match=r"tokenizer|vocabulary_size"):
        train_tokenizer(texts, size)
