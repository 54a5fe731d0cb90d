"""The one way into torchvision, which the wheels of PyPI need beside a PyTorch built for the CPU.

They are built against CUDA: under a PyTorch without it the operators `nms` and `qnms` are unknown and the import
fails. Declaring them first lets it pass. Models, transforms and data sets then work; what calls those two operators
(detection models, `ops.nms`) does not.
"""

from functools import cache
from typing import Any


@cache
def declare_operators() -> Any:
    """Make torchvision importable in this process; whoever imports what imports torchvision calls it first.

    Returns the library that holds the declarations, since they end with it.
    """
    import torch

    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def models() -> Any:
    """torchvision.models"""
    declare_operators()
    from torchvision import models as loaded

    return loaded


def transforms() -> Any:
    """torchvision.transforms.v2"""
    declare_operators()
    from torchvision.transforms import v2 as loaded

    return loaded
