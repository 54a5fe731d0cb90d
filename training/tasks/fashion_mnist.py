"""Fashion-MNIST: 70,000 grey 28x28 pictures of clothing in ten classes.

Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; the authors' gzipped IDX files.
"""

from training.data.published import DataCorruptError, PublishedFile, PublishedSet
from training.data.readers import CalibrationFrom, cut_official, read_idx_gz
from training.encoding import ImageEncoding
from training.task import Source, Split, Task

ENCODING = ImageEncoding(
    height=28,
    width=28,
    channels=1,
    labels=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    # The set shows light clothes on black, a shop's picture stands on white. No picture of the set has a
    # border light enough to be turned by mistake.
    polarity="light_on_dark",
    # A garment fills most of its frame: the crop, made for a pen stroke on an empty sheet, takes the garment
    # for the ground and would change 97 % of the set's own pictures.
    crop_to_content=False,
)

PUBLISHED = PublishedSet(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files=(
        PublishedFile("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        PublishedFile("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        PublishedFile("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        PublishedFile("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)


def load(source: Source, published: PublishedSet = PUBLISHED, *, calibration_from: CalibrationFrom = "train") -> Task:
    """`calibration_from="test"` is for weights from elsewhere that were trained on all of the published train part."""
    contents = published.read(source)
    train, test = (_read_part(contents, part) for part in ("train", "t10k"))
    return Task("fashion_mnist", ENCODING, cut_official(train, test, calibration_from), margin=0.02)


def _read_part(contents: dict[str, bytes], part: str) -> Split:
    images_name, labels_name = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
    images_NHW = read_idx_gz(contents[images_name], axes=3, name=images_name)
    labels_N = read_idx_gz(contents[labels_name], axes=1, name=labels_name)
    if len(images_NHW) != len(labels_N):
        raise DataCorruptError(f"{images_name} holds {len(images_NHW)} images, {labels_name} {len(labels_N)} labels")
    return Split(images_NHW[:, None], labels_N.astype("int64"))
