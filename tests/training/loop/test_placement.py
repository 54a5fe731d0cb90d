from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.loop.placement import place


def test_numbers_on_the_cpu_are_the_array_itself() -> None:
    array = np.arange(4)
    tensor = place(array, torch.device("cpu"))
    array[0] = 7
    assert tensor.tolist() == [7, 1, 2, 3]


def test_a_copy_to_a_gpu_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pinned memory `non_blocking` is not kept to."""
    calls: list[Any] = []

    def note(name: str) -> Any:
        def noted(tensor: Tensor, *arguments: Any, **more: Any) -> Tensor:
            calls.append((name, *arguments, more))
            return tensor

        return noted

    monkeypatch.setattr(torch.Tensor, "pin_memory", note("pin"))
    monkeypatch.setattr(torch.Tensor, "to", note("to"))
    place(np.arange(4), torch.device("cuda:1"))
    assert calls == [("pin", {}), ("to", torch.device("cuda:1"), {"non_blocking": True})]
