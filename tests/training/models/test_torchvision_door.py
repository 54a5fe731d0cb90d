import subprocess
import sys

import pytest
import torch

from training.models.torchvision_door import declare_operators, models, transforms


def test_models_and_transforms_work_whichever_build_of_torch_is_installed() -> None:
    assert "resnet18" in models().list_models()
    images_BCHW = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    flipped = transforms().functional.horizontal_flip(images_BCHW)
    assert flipped.flatten().tolist() == [1, 0, 3, 2]


def test_operators_are_declared_once_in_a_process() -> None:
    assert declare_operators() is declare_operators()


@pytest.mark.slow
def test_the_door_itself_loads_neither_torch_nor_torchvision() -> None:
    program = (
        "import sys, training.models.torchvision_door; print([n for n in ('torch', 'torchvision') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
