"""The one door to torchvision."""

from functools import cache
from typing import Any

import torch


def transforms() -> Any:
    """The module torchvision.transforms.v2."""
    _operators()
    from torchvision.transforms import v2

    return v2


@cache
def _operators() -> torch.library.Library | None:
    """Declare the operators that torchvision's wheels, which are built for CUDA, miss beside a CPU build of torch.

    Nothing here calls them; without their schemas `import torchvision` fails. What declares them must stay alive.
    """
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
    return library
