"""Models from elsewhere against a real MLflow: registered whole, or not at all."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from optimization.adopt.__main__ import main
from optimization.adopt.adoption import ORIGIN_TAG, Adoption, AdoptionError, adopt, doubt, examine
from optimization.adopt.graft import Scaling
from optimization.adopt.origin import FromOnnx, FromTorch, Origin
from optimization.runners.open import open_runner
from tests.optimization.adopt.graphs import MEAN, STD, WEIGHTS, logits_of, model, save, scaled
from tests.shared_data import data_folder, weights_folder
from tests.toys import images, texts
from training.artifact import load_artifact
from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build
from training.registry import Registry, RegistryError
from training.task import Source, Task, load_task

TASK = "tests.toys:images"
SCALING = Scaling((MEAN,), (STD,))
BRIGHT = Architecture("tests.optimization.adopt.test_adoption:bright")


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


class Bright(nn.Module):
    """The sum of each of the first three rows of pixels, by weights that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.linear = nn.Linear(16, 3)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.norm(images_BCHW.float().flatten(1) / 255))
        return logits


def bright(encoding: ImageEncoding) -> nn.Module:
    return Bright()


def _weights() -> dict[str, torch.Tensor]:
    state = build(BRIGHT, images(Source()).encoding).state_dict()
    return {**state, "linear.weight": torch.from_numpy(WEIGHTS.T.copy()), "linear.bias": torch.zeros(3)}


def _versions(registry: Registry, name: str = "toy_images") -> int:
    return len(MlflowClient(registry.tracking_uri, registry.tracking_uri).search_model_versions(f"name='{name}'"))


def _old_torch_file(path: Path) -> None:
    """As scripts of old saved it: under a name, behind DataParallel's prefix, without BatchNorm's counters."""
    state = {f"module.{name}": tensor for name, tensor in _weights().items() if "num_batches" not in name}
    torch.save({"state_dict": state, "best_prec1": 99.0}, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [("w.safetensors", lambda path: save_file(_weights(), path)), ("w.th", _old_torch_file)],
)
def test_weights_become_a_version_like_one_trained_here(
    registry: Registry, toy: Task, tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    version, scores = adopt(Adoption(FromTorch(BRIGHT, tmp_path / name), TASK, Source()), registry)
    assert scores.accuracy == 1.0
    assert scores.rows == len(toy.splits["gate"])
    assert registry.resolve("toy_images@candidate") == version
    origin = json.loads(version.tags[ORIGIN_TAG])
    assert (origin["from"], origin["file"], origin["architecture"]) == ("torch", name, BRIGHT.name)
    assert len(origin["sha256"]) == 64
    assert version.tags["tandem.data_hash"] == toy.data_hash
    assert version.tags["tandem.gate_accuracy"] == "1.0000"
    artifact = load_artifact(registry.fetch(version, tmp_path / "cache"))
    assert artifact.manifest.architecture == BRIGHT
    assert artifact.manifest.parent is None
    pixels = toy.splits["gate"].inputs[:4]
    np.testing.assert_allclose(open_runner(artifact)(pixels), logits_of(pixels / 255), rtol=1e-3)
    run = MlflowClient(registry.tracking_uri).get_run(version.run_id)
    assert run.data.metrics["gate/accuracy"] == 1.0
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_graph_becomes_a_version(registry: Registry, toy: Task, tmp_path: Path) -> None:
    version, scores = adopt(Adoption(FromOnnx(save(tmp_path, model()), SCALING), TASK, Source()), registry)
    assert scores.accuracy == 1.0
    artifact = load_artifact(registry.fetch(version, tmp_path / "cache"))
    assert (artifact.manifest.format, artifact.manifest.precision) == ("onnx", "fp32")
    pixels = toy.splits["gate"].inputs[:4]
    np.testing.assert_allclose(open_runner(artifact)(pixels), logits_of(scaled(pixels)), rtol=1e-3, atol=1e-3)
    assert json.loads(version.tags[ORIGIN_TAG])["mean"] == [MEAN]


def _torch_with(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], Origin]:
    def make(folder: Path) -> Origin:
        weights = _weights()
        change(weights)
        save_file(weights, folder / "w.safetensors")
        return FromTorch(BRIGHT, folder / "w.safetensors")

    return make


def _graph_with(**changes: object) -> Callable[[Path], Origin]:
    return lambda folder: FromOnnx(save(folder, model(**changes)), SCALING)  # type: ignore[arg-type]


def _centred() -> Callable[[Path], Origin]:
    """Logits less their mean over the batch, as batch normalization in training mode takes it off."""

    def make(folder: Path) -> Origin:
        made = model(after=[helper.make_node("ReduceMean", ["logits_"], ["mean"], axes=[0], keepdims=1),
                            helper.make_node("Sub", ["logits_", "mean"], ["y"])])  # fmt: skip
        return FromOnnx(save(folder, made), SCALING)

    return make


def _pickled(folder: Path) -> Origin:
    torch.save(Bright(), folder / "w.pt")
    return FromTorch(BRIGHT, folder / "w.pt")


SOFTMAX = [helper.make_node("Softmax", ["logits_"], ["y"], axis=1)]
ROOT = [helper.make_node("Sqrt", ["logits_"], ["y"])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (_torch_with(lambda weights: weights.pop("linear.bias")), "not in the file: linear.bias"),
        (_torch_with(lambda weights: weights.update(head=torch.ones(1))), "not in the model: head"),
        (
            _torch_with(lambda weights: weights.update({"linear.weight": torch.ones(4, 16)})),
            r"of another shape: linear\.weight \(\[4, 16\], not \[3, 16\]\)",
        ),
        (_torch_with(lambda weights: weights["linear.bias"].fill_(float("nan"))), "not finite: linear.bias"),
        (_pickled, "cannot be read as tensors alone"),
        (lambda folder: FromTorch(Architecture("tests.toys:nothing"), folder / "w.pt"), "names neither a part of"),
        (lambda folder: FromTorch(BRIGHT, folder / "w.pt"), "there is no such file"),
        (lambda folder: FromOnnx(folder / "given.onnx", SCALING), "there is no graph at"),
        (_graph_with(opset=11), "graph's opset is 11"),
        (_graph_with(after=SOFTMAX), "the model answers with probabilities: export it without its softmax"),
        (_graph_with(after=ROOT), "have logits that are not finite"),
        (_centred(), "a row's logits change by .* with the rows beside it"),
        (_graph_with(flat=(16, 16)), "cannot run batches of 16 rows and of one"),
    ],
)
def test_a_model_that_is_not_sound_leaves_nothing_in_the_registry(
    registry: Registry, tmp_path: Path, origin: Callable[[Path], Origin], message: str
) -> None:
    client = MlflowClient(registry.tracking_uri)
    experiments = len(client.search_experiments())
    before = _versions(registry)
    with pytest.raises(ValueError, match=message):
        adopt(Adoption(origin(tmp_path), TASK, Source()), registry)
    assert _versions(registry) == before
    assert len(client.search_experiments()) == experiments


def test_a_graph_whose_answer_depends_on_padding_is_refused(tmp_path: Path) -> None:
    """The mean over all positions, padding too, of each token's number."""
    task = texts(Source())
    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "sides"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "l"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.array([[-1.0, 1.0]], np.float32), "sides")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    artifact = FromOnnx(save(tmp_path, made)).write(tmp_path / "adopted", "tests.toys:texts", task)
    with pytest.raises(AdoptionError, match="let it mask padding"):
        examine(artifact, task)


def test_a_model_that_knows_nothing_of_the_task_is_doubted(toy: Task, tmp_path: Path) -> None:
    def scores(name: str, weights: np.ndarray) -> object:
        origin = FromOnnx(save(tmp_path, model(weights=weights), f"{name}.onnx"), SCALING)
        return examine(origin.write(tmp_path / name, TASK, toy), toy)

    assert doubt(scores("good", WEIGHTS)) is None  # type: ignore[arg-type]
    rolled = doubt(scores("rolled", np.roll(WEIGHTS, 1, axis=1)))  # type: ignore[arg-type]
    assert rolled is not None
    assert "is the order of its classes the task's" in rolled


def _run_main(monkeypatch: pytest.MonkeyPatch, registry: Registry, *arguments: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["optimization.adopt", *arguments])
    main()


@pytest.mark.slow
def test_the_command_tells_the_accuracy_and_what_comes_next(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path, model())
    _run_main(monkeypatch, registry, "--from-onnx", str(path), "--task", TASK, "--mean", str(MEAN), "--std", str(STD))
    said = capsys.readouterr().out
    assert "accuracy 100.00% (94.04% to 100.00%) on 60 rows of the gate split" in said
    number = registry.resolve("toy_images@candidate").number
    assert f"registered toy_images@{number} (alias candidate)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which model"),
        (["--from-onnx", "a.onnx"], "--task is missing"),
        (["--from-torch", "resnet20", "--task", "cifar10"], "--from-torch resnet20 needs --weights FILE"),
        (["--from-onnx", "a.onnx", "--task", TASK, "--weights", "w.pt"], "--weights and --model-param are of"),
        (["--from-onnx", "a.onnx", "--task", TASK, "--mean", "0.5"], "--mean and --std go together"),
        (["--from-torch", "resnet20", "--weights", "w", "--task", TASK, "--mean", "1", "--std", "1"], "are of --from-"),
        (["--from-onnx", "nowhere.onnx", "--task", TASK], "there is no graph at .*nowhere.onnx"),
        (["--from-onnx", "a.onnx", "--task", TASK, "--task-param", "a=1"], "has no parameter 'a'"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message) as caught:
        _run_main(monkeypatch, registry, *arguments)
    assert "\n" not in str(caught.value.code)


def test_no_candidate_is_touched_by_a_refusal(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="graph's opset is 11"):
        adopt(Adoption(FromOnnx(save(tmp_path, model(opset=11)), SCALING), "tests.toys:digits", Source()), registry)
    with pytest.raises(RegistryError, match="toy_digits"):
        registry.resolve("toy_digits@candidate")


@pytest.mark.slow
def test_published_cifar_weights_are_as_accurate_as_their_maker_says(tmp_path: Path) -> None:
    """ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10: 91.73 % of all 10,000 test images were measured."""
    scaled_as = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    weights = weights_folder() / "cifar10-resnet" / "resnet20-12fca82f.th"
    task = load_task("cifar10", Source(data_folder()), {"calibration_from": "test"})
    origin = FromTorch(Architecture("resnet20", scaled_as), weights)
    scores = examine(origin.write(tmp_path / "adopted", "cifar10", task), task)
    assert scores.rows == 4000
    assert scores.accuracy == pytest.approx(0.9173, abs=3 * (0.9173 * 0.0827 / 4000) ** 0.5)
    assert doubt(scores) is None
