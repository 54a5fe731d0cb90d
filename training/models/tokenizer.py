"""The tokenizer that a pretrained language model was trained with, for a Task whose texts that model is to read.

A text Task takes it in place of one learned from its own texts:

    tokenizer = read_tokenizer("path/to/bert-base-uncased")
    encoding = TextEncoding(max_tokens=128, labels=..., pad_id=tokenizer.pad_id)
    files = {encoding.tokenizer_file: tokenizer.content}

The Artifact then holds the tokenizer, so that the server encodes as the model was pretrained.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER_FILE = "tokenizer.json"
# A model that was never padded (GPT-2) is padded with the token that ends a text.
_PADDING = ("pad_token", "eos_token")
# Where these are named, as tokens; and for models whose tokenizer leaves them to the library, as ids.
_TOKENS_FILE, _IDS_FILE = "tokenizer_config.json", "config.json"


@dataclass(frozen=True)
class ModelTokenizer:
    content: bytes  # the JSON of a `tokenizers` tokenizer
    pad_id: int
    vocabulary: int


def read_tokenizer(name: str) -> ModelTokenizer:
    """The tokenizer in the folder `name`, or of the model of that name on the hub.

    Raises ValueError where there is none, or none in the format of `tokenizers`, or it has no token to pad with.
    """
    from tokenizers import Tokenizer

    path = _find(name, TOKENIZER_FILE)
    if path is None:
        raise ValueError(f"{name!r} holds no {TOKENIZER_FILE}: save its fast tokenizer there (save_pretrained)")
    content = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(f"{path} cannot be read as a tokenizer: {error}") from error
    pad_id = _pad_id(tokenizer, _read(name, _TOKENS_FILE), _read(name, _IDS_FILE))
    if pad_id is None:
        raise ValueError(
            f"the tokenizer of {name!r} names no {' nor '.join(_PADDING)} in {_TOKENS_FILE}, nor the model its id in "
            f"{_IDS_FILE}: name a token there to pad with"
        )
    return ModelTokenizer(content, pad_id, tokenizer.get_vocab_size())


def _pad_id(tokenizer: Any, tokens: Mapping[str, Any], ids: Mapping[str, Any]) -> int | None:
    for role in _PADDING:
        token = tokens.get(role)
        token = token["content"] if isinstance(token, dict) else token
        for number in (tokenizer.token_to_id(token) if token else None, ids.get(f"{role}_id")):
            if isinstance(number, int) and 0 <= number < tokenizer.get_vocab_size():
                return number
    return None


def _read(name: str, file: str) -> dict[str, Any]:
    path = _find(name, file)
    found: dict[str, Any] = json.loads(path.read_bytes()) if path else {}
    return found


def _find(name: str, file: str) -> Path | None:
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, HFValidationError):  # not there, or out of reach
        return None
