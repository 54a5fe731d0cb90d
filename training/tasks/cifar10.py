"""CIFAR-10: 60,000 colour photographs of 32x32 pixels in ten classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; the authors' python version.
"""

import numpy as np

from training.data.published import PublishedFile, PublishedSet
from training.data.readers import CalibrationFrom, cut_official, read_cifar_batch
from training.encoding import ImageEncoding
from training.task import Source, Split, Task

ENCODING = ImageEncoding(
    height=32,
    width=32,
    channels=3,
    labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)

PUBLISHED = PublishedSet(
    title="CIFAR-10",
    folder="cifar10",
    base_url="https://www.cs.toronto.edu/~kriz/",
    files=(
        PublishedFile("data_batch_1", "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"),
        PublishedFile("data_batch_2", "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"),
        PublishedFile("data_batch_3", "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"),
        PublishedFile("data_batch_4", "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"),
        PublishedFile("data_batch_5", "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"),
        PublishedFile("test_batch", "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"),
    ),
    archive=PublishedFile("cifar-10-python.tar.gz", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    archive_folder="cifar-10-batches-py",
)


def load(source: Source, published: PublishedSet = PUBLISHED, *, calibration_from: CalibrationFrom = "train") -> Task:
    """`calibration_from="test"` is for weights from elsewhere that were trained on all of the published train part."""
    batches = {name: read_cifar_batch(content, name) for name, content in published.read(source).items()}
    test = Split(*batches.pop("test_batch"))
    train = Split(*(np.concatenate(parts) for parts in zip(*batches.values(), strict=True)))
    return Task("cifar10", ENCODING, cut_official(train, test, calibration_from), margin=0.02)
