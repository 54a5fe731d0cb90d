import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from training.encoding import Encoder, TextEncoding
from training.models.tokenizer import read_tokenizer

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "sea": 4, "sun": 5, "wind": 6}


def _save(folder: Path, about: dict[str, Any] | None) -> Path:
    """As BERT's: special tokens around each text."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    if about is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def test_texts_are_encoded_as_the_model_was_pretrained(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(str(_save(tmp_path, {"pad_token": "[PAD]"})))
    assert (tokenizer.pad_id, tokenizer.vocabulary) == (0, len(WORDS))
    encoding = TextEncoding(max_tokens=4, labels=("a", "b"), pad_id=tokenizer.pad_id)
    encoder = Encoder(encoding, {encoding.tokenizer_file: tokenizer.content})
    assert [list(ids) for ids in encoder.encode_texts(["sea", "sea sun wind"])] == [[2, 4, 3], [2, 4, 5, 3]]


@pytest.mark.parametrize(
    ("about", "pad_id"),
    [
        ({"pad_token": {"content": "[SEP]"}, "eos_token": "[CLS]"}, 3),
        ({"eos_token": "wind"}, 6),
        ({"pad_token": None, "eos_token": "wind"}, 6),
        ({"pad_token": "not in the vocabulary", "eos_token": "wind"}, 6),
    ],
)
def test_a_model_without_padding_is_padded_with_what_ends_a_text(
    tmp_path: Path, about: dict[str, Any], pad_id: int
) -> None:
    assert read_tokenizer(str(_save(tmp_path, about))).pad_id == pad_id


@pytest.mark.parametrize(
    ("config", "pad_id"),
    [
        ({"pad_token_id": 2, "eos_token_id": 5}, 2),
        ({"eos_token_id": 5}, 5),
        ({"pad_token_id": None, "eos_token_id": 5}, 5),
        ({"pad_token_id": -1, "eos_token_id": 5}, 5),
        ({"pad_token_id": 99, "eos_token_id": 5}, 5),
    ],
)
def test_a_tokenizer_that_leaves_its_padding_to_the_library_is_padded_as_the_model_says(
    tmp_path: Path, config: dict[str, Any], pad_id: int
) -> None:
    """As those of BERT and GPT-2 on the hub do."""
    _save(tmp_path, {"model_max_length": 1024})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_tokenizer(str(tmp_path)).pad_id == pad_id


@pytest.mark.parametrize("about", [None, {}, {"pad_token": "absent"}])
def test_a_tokenizer_with_nothing_to_pad_with_is_refused(tmp_path: Path, about: dict[str, Any] | None) -> None:
    with pytest.raises(ValueError, match="names no pad_token nor eos_token"):
        read_tokenizer(str(_save(tmp_path, about)))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        read_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a tokenizer"):
        read_tokenizer(str(tmp_path))


def test_a_name_that_no_hub_would_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'not a/valid/name' holds no tokenizer\.json"):
        read_tokenizer("not a/valid/name")
