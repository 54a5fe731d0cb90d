"""Language models of a few thousand parameters, randomly initialized and saved to a folder as transformers saves them,
with a tokenizer of a few words where one is wanted.

Pretrained ones cannot be downloaded where the tests run: these have the same parts, and know nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 40
_SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "bos_token_id": 1, "eos_token_id": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
}
KINDS = tuple(_SIZES)
# The first ids of each one's tokenizer, what it puts around a text ($A), and what its tokenizer_config.json says.
_SPECIAL: dict[str, tuple[list[str], str, dict[str, Any]]] = {
    "bert": (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]", {"pad_token": "[PAD]"}),
    "gpt2": (["!", "<|endoftext|>"], "$A", {"eos_token": "<|endoftext|>", "pad_token": None}),
    "t5": (["<pad>", "</s>", "<unk>"], "$A </s>", {"pad_token": {"content": "<pad>"}, "eos_token": "</s>"}),
}


def save_language_model(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """A model of `kind` without a head for sequences, as pretraining leaves one; returns `folder`."""
    import torch

    from training.models.torchvision_door import declare_operators

    declare_operators()
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **{**_SIZES[kind], **changes})
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, kind: str, words: Sequence[str]) -> Path:
    """Beside a model of `kind` the tokenizer that it would have been pretrained with; returns `folder`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special, template, about = _SPECIAL[kind]
    ids = {word: number for number, word in enumerate([*special, *words])}
    assert len(ids) <= VOCABULARY
    unknown = next((token for token in special if "unk" in token.lower()), special[0])
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(template, None, [(token, ids[token]) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def language_params(kind: str) -> dict[str, Any]:
    """The parameters of an Architecture named "transformers": such a model's configuration as data."""
    return {"config": {"model_type": kind, "vocab_size": VOCABULARY, **_SIZES[kind]}}
