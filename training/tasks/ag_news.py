"""AG News: title and first lines of English news in four classes; 120,000 rows to train with, 7,600 to test.

Source: Zhang, Zhao, LeCun 2015, "Character-level Convolutional Networks for Text Classification"; their CSV files.
Where the full train.csv is absent and may not be downloaded, a known sample of it (41,342 rows, train_subset.csv)
is taken in its place.
"""

import dataclasses
import logging

import numpy as np
from numpy.typing import NDArray

from training.data.published import PublishedFile, PublishedSet
from training.data.readers import assign_official, read_labelled_csv, text_keys
from training.data.tokenizer import PAD_ID, train_tokenizer
from training.encoding import Encoder, TextEncoding
from training.task import SPLIT_NAMES, Source, Split, Task

logger = logging.getLogger(__name__)

# 99 % of the rows are shorter.
ENCODING = TextEncoding(max_tokens=96, labels=("World", "Sports", "Business", "Sci/Tech"), pad_id=PAD_ID)

# Word pieces of 8,000 to 20,000 ids and whole words of 20,000 differ by less than the noise of the val split;
# pieces leave nothing unknown where whole words lose 2.7 % of the tokens.
VOCABULARY_SIZE = 16_000

SUBSET = PublishedFile("train_subset.csv", "fa10e8a1bb511670d7addc43985391cd1d49b5b44adbb5258c78857206ca01bb")

PUBLISHED = PublishedSet(
    title="AG News",
    folder="ag-news",
    base_url="https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/",
    files=(
        PublishedFile("train.csv", "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e"),
        PublishedFile("test.csv", "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699"),
    ),
)


def load(source: Source, published: PublishedSet = PUBLISHED, subset: PublishedFile = SUBSET) -> Task:
    full, test_file = published.files
    partial = dataclasses.replace(published, files=(subset, test_file))
    stands_in = full.name in published.missing(source) and not partial.missing(source) and not source.download
    chosen = partial if stands_in else published
    contents = chosen.read(source)
    train_file = chosen.files[0]
    classes = len(ENCODING.labels)
    texts, labels = read_labelled_csv(contents[train_file.name], classes, train_file.name)
    test_texts, test_labels = read_labelled_csv(contents[test_file.name], classes, test_file.name)
    if chosen is partial:
        logger.warning(
            "%s: %s of %d rows stands in for the full %s; results do not compare with those of the full set",
            published.title,
            train_file.name,
            len(texts),
            full.name,
        )
    return make_task(texts, labels, test_texts, test_labels)


def make_task(
    texts: list[str], labels: NDArray[np.int64], test_texts: list[str], test_labels: NDArray[np.int64]
) -> Task:
    """Published rows -> the Task; its tokenizer has seen the train split and nothing else."""
    names = np.concatenate(assign_official(text_keys(texts), text_keys(test_texts)))
    all_texts, all_labels = [*texts, *test_texts], np.concatenate([labels, test_labels])
    train_texts = [text for text, name in zip(all_texts, names, strict=True) if name == "train"]
    files = {ENCODING.tokenizer_file: train_tokenizer(train_texts, VOCABULARY_SIZE)}
    encoder = Encoder(ENCODING, files)
    tokens_NL = np.full((len(all_texts), ENCODING.max_tokens), ENCODING.pad_id, dtype=np.int64)
    for row, ids in zip(tokens_NL, encoder.encode_texts(all_texts), strict=True):
        row[: len(ids)] = ids
    splits = {name: Split(tokens_NL[names == name], all_labels[names == name]) for name in SPLIT_NAMES}
    return Task("ag_news", ENCODING, splits, margin=0.02, files=files)
