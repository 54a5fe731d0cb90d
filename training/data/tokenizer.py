"""The tokenizer of a text Task, learned from its train split: cleaning, word pieces and vocabulary in one file.

Everything that happens to a text before it is token ids is inside the tokenizer, so that the server,
which gets only that file, does to a request exactly what training did to its rows.
"""

import json
from collections.abc import Iterable
from typing import Any, Literal

PAD_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1

Vocabulary = Literal["pieces", "words"]

# What web scrapers left of HTML, often without its ampersand: apostrophes, ampersands, then all that is no text
# (tags in either spelling, quotes and other entities, and the backslash that stands for a line break).
# Few patterns, since each walks the whole text again; all bounded, since a request may hold 100,000
# characters, and an open `\s*` before a literal would take quadratic time on blanks.
_REPLACEMENTS: tuple[tuple[str, str], ...] = (
    (" ?&?(?:#0?39|#146|#8217|apos|rsquo);|[\u2018\u2019]", "'"),
    (r"&?(?:amp|#0?38);", "&"),
    (
        r"&lt;(?:(?!&[lg]t;).){0,200}&gt;|<[^<>]{0,200}>|\\"
        r"|&?(?:#x?[0-9a-f]{1,5}|[lg]t|nbsp|quot|[lr]dquo|hellip|[mn]dash);",
        " ",
    ),
)


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int, min_frequency: int = 2, vocabulary: Vocabulary = "pieces"
) -> bytes:
    """Texts -> the JSON of a tokenizer with at most `vocabulary_size` ids: of word pieces (BPE), or of whole words.

    The same texts give the same bytes. Id 0 pads and id 1 stands for what is unknown, a character or a word; no text,
    not even one that spells "[PAD]", is given id 0. Raises ValueError when there is nothing to learn from.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if vocabulary_size < 3:
        raise ValueError(f"vocabulary_size is {vocabulary_size}: it must hold padding, unknown and at least one piece")
    special = [PAD_TOKEN, UNKNOWN_TOKEN]
    if vocabulary == "pieces":
        learner = Tokenizer(models.BPE(unk_token=UNKNOWN_TOKEN))
        trainer: Any = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=min_frequency,
            special_tokens=special,
            limit_alphabet=500,
            show_progress=False,
        )
    else:
        learner = Tokenizer(models.WordLevel(unk_token=UNKNOWN_TOKEN))
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocabulary_size, min_frequency=min_frequency, special_tokens=special, show_progress=False
        )
    learner.normalizer = _normalizer()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(texts, trainer)
    if learner.get_vocab_size() == len(special):
        raise ValueError("a tokenizer cannot be trained on no text at all: give the texts of the train split")
    description = json.loads(learner.to_str())
    # As added tokens the two names would be found verbatim in any text; as entries of the vocabulary alone
    # they have ids and nothing that a text holds, cleaned to lower case, ever leads to the first of them.
    description["added_tokens"] = []
    return json.dumps(description, ensure_ascii=False, separators=(",", ":")).encode()


def clean(texts: Iterable[str]) -> list[str]:
    """Each text as the tokenizer sees it once cleaned: lower case, no accents, no remains of HTML."""
    normalizer = _normalizer()
    return [normalizer.normalize_str(text) for text in texts]


def _normalizer() -> Any:
    from tokenizers import Regex, normalizers

    return normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            *(normalizers.Replace(Regex(pattern), content) for pattern, content in _REPLACEMENTS),
        ]
    )
