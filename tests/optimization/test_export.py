import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from optimization.export import ExportError, export_coreml, export_onnx, export_torch_program
from optimization.runners.onnx_runtime import onnx_session
from tests.language_models import KINDS, language_params
from tests.toys import IMAGES, TEXTS, VOCABULARY
from training.encoding import Array, Encoding, output_spec
from training.models.architecture import Architecture, build
from training.models.words import Words

pytestmark = pytest.mark.slow

MODELS: dict[str, tuple[Encoding, Architecture]] = {
    "convnet": (IMAGES, Architecture("convnet", {"widths": [4, 8], "dropout": 0.5})),
    "resnet": (IMAGES, Architecture("resnet", {"widths": [4, 8]})),
    "dense": (IMAGES, Architecture("tests.toys:dense")),
    "lstm": (TEXTS, Architecture("lstm", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4, "dropout": 0.5})),
    "rnn": (TEXTS, Architecture("rnn", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4})),
    "gru": (TEXTS, Architecture("gru", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4, "layers": 2})),
    "lstms": (
        TEXTS,
        Architecture(
            "lstm", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4, "layers": 2, "pooling": "attention"}
        ),
    ),
    "pairs": (
        TEXTS,
        Architecture("lstm", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4, "pairs": 40}),
    ),
    "transformer": (TEXTS, Architecture("transformer", {"vocabulary": VOCABULARY, "width": 16})),
    "sinusoidal": (
        TEXTS,
        Architecture(
            "transformer",
            {"vocabulary": VOCABULARY, "width": 16, "positions": "sinusoidal", "pooling": "attention"},
        ),
    ),
    "resnet20": (IMAGES, Architecture("resnet20")),
    "torchvision": (IMAGES, Architecture("torchvision/mobilenet_v3_small")),
    "timm": (IMAGES, Architecture("timm/vit_tiny_patch16_224", {"size": 32, "depth": 1, "embed_dim": 24})),
    **{kind: (TEXTS, Architecture("transformers", language_params(kind))) for kind in KINDS},
    "bag": (TEXTS, Architecture("bag_of_embeddings", {"vocabulary": VOCABULARY, "embedding": 4, "hidden": 4})),
}


def _batch(encoding: Encoding, rows: int, length: int = 6) -> Array:
    random = np.random.default_rng(rows * 100 + length)
    if encoding is IMAGES:
        return random.integers(0, 256, (rows, 1, 4, 4)).astype(np.uint8)
    tokens = random.integers(1, VOCABULARY, (rows, length))
    for row in tokens[1:]:
        row[random.integers(1, length + 1) :] = 0
    return tokens


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest) -> tuple[Encoding, nn.Module, bytes]:
    encoding, architecture = MODELS[request.param]
    torch.manual_seed(0)
    module = build(architecture, encoding)
    # Statistics as a trained model has them, so that normalization is not the identity.
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
        if isinstance(part, Words) and part.pairs is not None:
            nn.init.normal_(part.pairs.weight)
    module.train()  # dropout must not come into the graph
    return encoding, module, export_onnx(module, _batch(encoding, 4), encoding.input_spec, output_spec(encoding))


def test_the_graph_answers_as_the_module_at_every_size(exported: tuple[Encoding, nn.Module, bytes]) -> None:
    encoding, module, content = exported
    session = onnx_session(content)
    for rows in (1, 2, 5, 33):
        for length in (1, 2, 6, 17) if encoding is TEXTS else (6,):
            batch = _batch(encoding, rows, length)
            with torch.inference_mode():
                expected = module(torch.from_numpy(batch)).numpy()
            (logits,) = session.run(["logits"], {encoding.input_spec.name: batch})
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, expected, atol=1e-5, err_msg=f"{rows} rows of {length}")


def test_the_graph_says_which_axes_are_dynamic(exported: tuple[Encoding, nn.Module, bytes]) -> None:
    encoding, _, content = exported
    graph = onnx.load_from_string(content).graph
    (tensor,) = graph.input
    dims = tensor.type.tensor_type.shape.dim
    assert tensor.name == encoding.input_spec.name
    assert tuple(-1 if dim.dim_param else dim.dim_value for dim in dims) == encoding.input_spec.shape
    answer = graph.output[0].type.tensor_type.shape.dim
    assert [node.name for node in graph.output] == ["logits"]
    assert answer[0].dim_param == dims[0].dim_param
    assert answer[1].dim_value == len(encoding.labels)


def test_the_graph_is_sound_and_holds_its_weights(exported: tuple[Encoding, nn.Module, bytes]) -> None:
    _, module, content = exported
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert len(content) > sum(p.numel() * 4 for p in module.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    encoding, architecture = MODELS["dense"]
    module = build(architecture, encoding)
    with torch.no_grad():
        next(module.parameters())[0, 0] = bad
    with pytest.raises(ExportError, match=r"the weights 2\.weight hold values that are not finite"):
        export_onnx(module, _batch(encoding, 4), encoding.input_spec, output_spec(encoding))


@pytest.mark.parametrize(("name", "rows", "length"), [("dense", 1, 6), ("lstm", 4, 1), ("lstm", 1, 6)])
def test_an_example_of_one_is_refused_since_it_would_be_taken_for_a_constant(name: str, rows: int, length: int) -> None:
    encoding, architecture = MODELS[name]
    example = _batch(encoding, rows, length)
    with pytest.raises(ExportError, match="each dynamic axis needs a size of 2 or more"):
        export_onnx(build(architecture, encoding), example, encoding.input_spec, output_spec(encoding))


class _Fickle(nn.Module):
    """Answers by what the numbers are, which no graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.float().flatten(1)
        if float(flat.sum()) > 100:
            flat = flat * 2
        logits: Tensor = self.head(flat)
        return logits


class _Fixed(nn.Module):
    """Works for batches of four alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.float().reshape(4, 16))
        return logits


@pytest.mark.parametrize("module", [_Fickle(), _Fixed()])
def test_a_module_that_cannot_become_a_graph_is_refused(module: nn.Module, capsys: Any) -> None:
    with pytest.raises(ExportError, match="PyTorch's ONNX exporter failed"):
        export_onnx(module, _batch(IMAGES, 4), IMAGES.input_spec, output_spec(IMAGES))


def test_the_exporter_leaves_no_trace(capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("torch.onnx").level
    encoding, architecture = MODELS["dense"]
    export_onnx(build(architecture, encoding), _batch(encoding, 4), encoding.input_spec, output_spec(encoding))
    assert capfd.readouterr().out == ""
    assert logging.getLogger("torch.onnx").level == level
    assert list(tmp_path.iterdir()) == []


PROGRAMS = ("convnet", "dense", "transformer", "bag", "resnet20")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_torch_program_answers_as_its_module_at_every_size(name: str) -> None:
    encoding, architecture = MODELS[name]
    module = build(architecture, encoding)
    program = export_torch_program(module, _batch(encoding, 4), encoding.input_spec).module()
    for rows in (1, 2, 5):
        for length in (1, 6, 17) if encoding is TEXTS else (6,):
            batch = torch.from_numpy(_batch(encoding, rows, length))
            with torch.inference_mode():
                torch.testing.assert_close(program(batch), module.eval()(batch), rtol=0, atol=1e-5)


def test_a_torch_program_of_a_network_that_unrolls_is_refused() -> None:
    encoding, architecture = MODELS["lstm"]
    with pytest.raises(ExportError, match=r"torch\.export failed"):
        export_torch_program(build(architecture, encoding), _batch(encoding, 4), encoding.input_spec)


def test_a_torch_program_has_finite_weights_and_open_axes() -> None:
    encoding, architecture = MODELS["dense"]
    module = build(architecture, encoding)
    with pytest.raises(ExportError, match="needs a size of 2 or more"):
        export_torch_program(module, _batch(encoding, 1), encoding.input_spec)
    with torch.no_grad():
        next(module.parameters())[0, 0] = torch.nan
    with pytest.raises(ExportError, match=r"2\.weight hold values that are not finite"):
        export_torch_program(module, _batch(encoding, 4), encoding.input_spec)


def _to_coreml(target: Path) -> None:
    encoding, architecture = MODELS["dense"]
    module = build(architecture, encoding)
    export_coreml(module, _batch(encoding, 4), encoding.input_spec, output_spec(encoding), target)


@pytest.mark.skipif(importlib.util.find_spec("coremltools") is not None, reason="coremltools is installed")
def test_core_ml_without_its_tools_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs coremltools, which is not installed: pip install coremltools"):
        _to_coreml(tmp_path / "a.mlpackage")


@pytest.fixture
def coremltools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The part of coremltools' documented API that is called, which keeps what it is given."""

    class Package:
        def save(self, target: str) -> None:
            Path(target).mkdir()

    fake: Any = ModuleType("coremltools")
    fake.given = []
    fake.TensorType = lambda name: name

    def convert(program: Any, outputs: list[str]) -> Package:
        fake.given.append((program, outputs))
        return Package()

    fake.convert = convert
    monkeypatch.setitem(sys.modules, "coremltools", fake)
    return fake


def test_core_ml_is_given_a_program_of_plain_operators(coremltools: Any, tmp_path: Path) -> None:
    _to_coreml(tmp_path / "a.mlpackage")
    ((program, outputs),) = coremltools.given
    assert outputs == ["logits"]
    assert program.dialect == "ATEN"
    assert (tmp_path / "a.mlpackage").is_dir()
    for wrong in ("a.mlpackage", "b.onnx"):
        with pytest.raises(ExportError, match=r"whose name ends in \.mlpackage"):
            _to_coreml(tmp_path / wrong)


def test_core_mls_own_refusal_is_passed_on(coremltools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no op for warp")

    monkeypatch.setattr(coremltools, "convert", refuse)
    with pytest.raises(ExportError, match="coremltools cannot convert the module: no op for warp"):
        _to_coreml(tmp_path / "a.mlpackage")
