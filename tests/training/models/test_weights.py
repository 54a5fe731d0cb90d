import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.toys import images, write_torch
from training.artifact import ArtifactError
from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build
from training.models.torchvision_door import models
from training.models.weights import load_all_weights, load_weights, read_weights
from training.task import Source

NET = Architecture("resnet", {"widths": [4, 8]})
IMAGE = ImageEncoding(height=8, width=8, channels=3, labels=("a", "b", "c"))


def _module(seed: int = 0, labels: tuple[str, ...] = IMAGE.labels) -> nn.Module:
    torch.manual_seed(seed)
    module = build(NET, ImageEncoding(height=8, width=8, channels=3, labels=labels))
    for buffer in module.buffers():
        buffer.copy_(torch.randint(1, 9, buffer.shape))
    return module


def _same(module: nn.Module, other: nn.Module) -> bool:
    mine, theirs = module.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _write(path: Path, content: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.th", "w.bin", "w.ckpt"])
def test_weights_of_every_format_are_loaded_whole(tmp_path: Path, name: str) -> None:
    trained, module = _module(1), _module(2)
    report = load_weights(module, _write(tmp_path / name, trained.state_dict()))
    assert report.complete
    assert set(report.loaded) == set(trained.state_dict())
    assert _same(module, trained)
    assert str(report) == f"{len(report.loaded)} weights loaded from {tmp_path / name}"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    trained, module = _module(1), _module(2)
    content = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    assert load_weights(module, _write(tmp_path / "w.pt", content)).complete
    assert _same(module, trained)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_are_found_within_a_checkpoint(tmp_path: Path, key: str) -> None:
    trained, module = _module(1), _module(2)
    torch.save({"epoch": 3, "best": 0.9, key: trained.state_dict()}, tmp_path / "w.pth")
    assert load_weights(module, tmp_path / "w.pth").complete
    assert _same(module, trained)


def test_an_artifact_is_read_by_its_folder_and_verified(tmp_path: Path) -> None:
    task = images(Source())
    artifact = write_torch(tmp_path / "a", task, NET, seed=5)
    torch.manual_seed(6)
    module = build(NET, task.encoding)
    assert load_weights(module, artifact.folder).complete
    torch.manual_seed(5)
    assert _same(module, build(NET, task.encoding))
    artifact.model_path.chmod(0o644)
    artifact.model_path.write_bytes(artifact.model_path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="was altered"):
        load_weights(module, artifact.folder)


def test_what_does_not_fit_is_told_by_name_and_left_as_it_was(tmp_path: Path) -> None:
    trained, module = _module(1, labels=("a", "b", "c", "d")), _module(2)
    before = copy.deepcopy(module)
    content = trained.state_dict()
    head = [name for name in content if name.startswith("7.")]
    assert head == ["7.weight", "7.bias"]
    del content["1.0.weight"]
    content["extra.bias"] = torch.zeros(2)
    report = load_weights(module, _write(tmp_path / "w.safetensors", content))
    assert report.missing == ("1.0.weight",)
    assert report.unexpected == ("extra.bias",)
    assert report.reshaped == ("7.weight ([4, 8], not [3, 8])", "7.bias ([4], not [3])")
    assert not report.complete
    left = {"1.0.weight", *head}
    assert set(report.loaded) == set(module.state_dict()) - left
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, (before if name in left else trained).state_dict()[name]), name
    text = str(report)
    assert "1 not in the file, left as they were: 1.0.weight" in text
    assert "1 only in the file, left out: extra.bias" in text
    assert "2 of another shape, left as they were: 7.weight ([4, 8], not [3, 8]), 7.bias" in text


def test_a_long_report_shows_the_first_names_and_counts_the_rest(tmp_path: Path) -> None:
    module = _module()
    name, tensor = next(iter(module.state_dict().items()))
    text = str(load_weights(module, _write(tmp_path / "w.pt", {name: tensor})))
    assert f"and {len(module.state_dict()) - 1 - 8} more" in text


def test_weights_of_half_precision_are_loaded_in_the_modules_own(tmp_path: Path) -> None:
    trained, module = _module(1), _module(2)
    content = {name: t.half() if t.is_floating_point() else t for name, t in trained.state_dict().items()}
    assert load_weights(module, _write(tmp_path / "w.safetensors", content)).complete
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert torch.equal(module.get_parameter("7.weight"), trained.get_parameter("7.weight").half().float())


def test_a_file_for_the_network_within_a_module_fits_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = models().resnet18(weights=None)
    module = build(Architecture("torchvision/resnet18"), IMAGE)
    report = load_weights(module, _write(tmp_path / "resnet18.pth", published.state_dict()))
    assert report.reshaped == ("network.fc.weight ([1000, 512], not [3, 512])", "network.fc.bias ([1000], not [3])")
    assert not report.missing and not report.unexpected
    torch.testing.assert_close(module.get_parameter("network.conv1.weight"), published.conv1.weight)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    module = _module()
    before = copy.deepcopy(module)
    content = {"encoder.weight": torch.zeros(2), "1.1.num_batches_tracked": torch.tensor(5)}
    with pytest.raises(
        ValueError, match=r"nothing in .* fits the model: it holds encoder\.weight, .*; the model has 1\."
    ):
        load_weights(module, _write(tmp_path / "w.pt", content))
    assert _same(module, before)


def test_a_whole_file_is_loaded_though_it_lacks_counters(tmp_path: Path) -> None:
    trained, module = _module(1), _module(2)
    content = {name: tensor for name, tensor in trained.state_dict().items() if "num_batches_tracked" not in name}
    report = load_all_weights(module, _write(tmp_path / "w.pt", content))
    assert set(report.loaded) == set(content)
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in content.items())


def test_a_file_that_is_not_whole_or_not_sound_is_refused_by_name(tmp_path: Path) -> None:
    content = dict(_module(1).state_dict())
    name = next(name for name, tensor in content.items() if tensor.ndim == 4)
    for change, message in (
        ({name: None}, f"not in the file: {name}"),
        ({"head": torch.ones(1)}, "not in the model: head"),
        ({name: torch.ones(3)}, rf"of another shape: {name} \(\[3\], not"),
        ({name: torch.full_like(content[name], float("inf"))}, f"not finite: {name}"),
    ):
        changed = {key: value for key, value in {**content, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            load_all_weights(_module(2), _write(tmp_path / "w.pt", changed))


class _Opens:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (str(self.path), "w")


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "trap": _Opens(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"no archive", "cannot be read as tensors alone"),
        ("w.safetensors", b"no tensors", "is no sound safetensors file"),
        ("w.onnx", b"x", r"is no \.safetensors nor \.pt, \.pth"),
        ("w.pt", pickle.dumps([1, 2]), "cannot be read as tensors alone|holds a list"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(("content", "message"), [([1], "holds a list"), ({"epoch": 3}, "holds no tensors by name")])
def test_torch_files_without_weights_are_refused(tmp_path: Path, content: object, message: str) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "w.pt")


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights at .*absent\.pt: there is no such file"):
        read_weights(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match=r"no weights at .*model\.safetensors"):
        read_weights(tmp_path)
