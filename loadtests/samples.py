"""Samples: the real inputs, with their labels, that a load test sends.

Shape suffixes: N samples, C channels, H height, W width, L tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from loadtests.endpoint import ModelMetadata

NUMPY_OF_INPUT = {"UINT8": np.dtype(np.uint8), "INT64": np.dtype(np.int64)}


class SampleError(ValueError):
    """There are no inputs that fit the model; the message says how to get some."""


@dataclass(frozen=True)
class Samples:
    """`inputs`: uint8 [N,C,H,W] or int64 [N,L] (padded with 0 on the right); `labels`: int64 [N] class indices."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    source: str

    def __len__(self) -> int:
        return len(self.inputs)


def samples_for(model: ModelMetadata, file: Path | None) -> Samples:
    """Samples from `file`, or the bundled digits where the model takes 8x8 grey images; raises SampleError."""
    if file is not None:
        return _check(_load(file), model)
    if model.input.datatype == "UINT8" and model.input.shape[1:] == (1, 8, 8):
        return bundled_digits()
    raise SampleError(
        f"model {model.name!r} takes {model.input.datatype} {list(model.input.shape)} and no inputs of that shape are "
        f"bundled: pass --inputs FILE.npz (written by `python -m training.task {model.name} --split report "
        "--save FILE.npz`)"
    )


def bundled_digits() -> Samples:
    """scikit-learn's 1,797 handwritten digits, uint8 [N,1,8,8], light ink on dark ground.

    A model trained on this set has seen most of them: their accuracy shows that answers are sane, no more.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs_NCHW = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]
    return Samples(inputs_NCHW, digits.target.astype(np.int64), "scikit-learn digits, training rows included")


def _load(file: Path) -> Samples:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise SampleError(f"{file}: cannot be read as an .npz with arrays 'inputs' and 'labels' ({error})") from error
    if labels.ndim != 1 or len(labels) != len(inputs) or not np.issubdtype(labels.dtype, np.integer):
        raise SampleError(f"{file}: labels {labels.dtype} {labels.shape} do not match {len(inputs)} inputs, one each")
    if not len(inputs):
        raise SampleError(f"{file}: holds no sample")
    return Samples(inputs, labels.astype(np.int64), file.name)


def _check(samples: Samples, model: ModelMetadata) -> Samples:
    wanted = model.input
    dtype = NUMPY_OF_INPUT.get(wanted.datatype)
    if dtype is None:
        raise SampleError(
            f"model {model.name!r} takes {wanted.datatype}; this client sends {', '.join(NUMPY_OF_INPUT)}"
        )
    got = samples.inputs
    fits = len(got.shape) == len(wanted.shape) and all(
        want in (-1, size) for want, size in zip(wanted.shape[1:], got.shape[1:], strict=True)
    )
    if got.dtype != dtype or not fits:
        raise SampleError(
            f"{samples.source}: inputs are {got.dtype} {list(got.shape)}, but model {model.name!r} takes "
            f"{wanted.datatype} {list(wanted.shape)}; pass the file of the set that the model was trained on"
        )
    return samples
