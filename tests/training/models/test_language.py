"""The language models here are tiny and randomly initialized; see tests/language_models.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from tests.language_models import KINDS, VOCABULARY, language_params, save_language_model
from tests.toys import IMAGES, texts, write_torch
from training.artifact import write_artifact
from training.encoding import TextEncoding, output_spec
from training.models.architecture import Architecture, build, check, self_contained
from training.models.pretrained import load_pretrained
from training.models.recompute import recompute_activations
from training.module import load_module
from training.task import Source

TEXT = TextEncoding(max_tokens=24, labels=("a", "b", "c"))
LENGTHS = [7, 1, 12, 4]


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(0)
    batch = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    for row, length in zip(batch, LENGTHS, strict=True):
        row[:length] = torch.randint(2, VOCABULARY, (length,))
    return batch


def _model(kind: str) -> Any:
    """With weights as large as trained ones, so that what is looked at makes a difference."""
    torch.manual_seed(1)
    model = build(Architecture("transformers", language_params(kind)), TEXT).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(5 if weights.ndim > 1 else 1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_no_answer(kind: str, tokens: Tensor) -> None:
    model = _model(kind)
    together = model(tokens)
    assert together.shape == (4, 3)
    assert torch.pdist(together).min() > 1e-4
    padded = torch.cat([tokens, torch.zeros(len(tokens), 9, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded), together, rtol=1e-4, atol=1e-5)
    for row, length, logits in zip(tokens, LENGTHS, together, strict=True):
        torch.testing.assert_close(model(row[None, :length])[0], logits, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(model(torch.zeros(2, 5, dtype=torch.int64))).all()


def test_t5_answers_as_its_own_classifier_does_on_texts_that_end_once(tokens: Tensor) -> None:
    model = _model("t5")
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[length - 1] = model.model.config.eos_token_id
    expected = model.model(tokens, attention_mask=(tokens != 0).long()).logits
    torch.testing.assert_close(model(tokens), expected)
    tokens[0, 2] = model.model.config.eos_token_id  # which its own classifier refuses
    assert torch.isfinite(model(tokens)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_outlives_the_folder_that_its_configuration_came_from(tmp_path: Path, kind: str) -> None:
    folder = save_language_model(tmp_path / "hub", kind)
    architecture = self_contained(Architecture(f"transformers/{folder}", {"pretrained": True}))
    shutil.rmtree(folder)
    again = Architecture(**json.loads(json.dumps({"name": architecture.name, "params": dict(architecture.params)})))
    check(again)
    torch.manual_seed(1)
    module = build(again, TEXT)
    assert sum(p.numel() for p in module.parameters()) > 1000
    assert self_contained(again) == again


def test_an_artifact_holds_the_configuration_and_is_loaded_without_the_folder(tmp_path: Path) -> None:
    task = texts(Source())
    folder = save_language_model(tmp_path / "hub", "bert")
    written = write_torch(tmp_path / "artifact", task, Architecture(f"transformers/{folder}", {"pretrained": True}))
    shutil.rmtree(folder)
    assert written.manifest.architecture is not None and written.manifest.architecture.name == "transformers"
    batch = torch.from_numpy(task.splits["val"].inputs[:4])
    torch.manual_seed(0)
    original = build(written.manifest.architecture, task.encoding).eval()
    torch.testing.assert_close(load_module(written)(batch), original(batch))


def test_weights_that_a_model_uses_twice_are_loaded_again_as_they_were_trained(tmp_path: Path) -> None:
    task = texts(Source())
    architecture = Architecture("transformers", language_params("t5"))
    module = build(architecture, task.encoding).eval()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    artifact = write_artifact(
        tmp_path / "artifact", {"model.safetensors": save(weights), **task.files}, name="t", variant="teacher",
        task="t", format="torch", precision="fp32", encoding=task.encoding, input=task.encoding.input_spec,
        output=output_spec(task.encoding), architecture=architecture, parent=None,
    )  # fmt: skip
    batch = torch.from_numpy(task.splits["val"].inputs[:4])
    torch.testing.assert_close(load_module(artifact)(batch), module(batch))


@pytest.mark.parametrize(("kind", "head"), [("bert", "classifier"), ("gpt2", "score"), ("t5", "classification_head")])
def test_pretrained_weights_are_loaded_all_but_the_head(tmp_path: Path, kind: str, head: str) -> None:
    architecture = Architecture(f"transformers/{save_language_model(tmp_path, kind, seed=3)}", {"pretrained": True})
    module = build(architecture, TEXT)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    report = load_pretrained(module, architecture)
    assert report is not None
    assert report.missing and all(name.startswith(f"model.{head}.") for name in report.missing)
    assert not report.unexpected and not report.reshaped
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in report.missing)
    from transformers import AutoModel

    pretrained = AutoModel.from_pretrained(tmp_path).state_dict()
    inner = module.get_submodule("model").base_model.state_dict()
    assert pretrained.keys() == inner.keys()
    assert all(torch.equal(inner[name], tensor) for name, tensor in pretrained.items())


def test_fields_of_the_configuration_can_be_set(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path, "bert")
    changed = Architecture(f"transformers/{folder}", {"num_hidden_layers": 1, "hidden_dropout_prob": 0.5})
    module = build(changed, TEXT)
    assert {part.p for part in module.modules() if isinstance(part, nn.Dropout)} == {0.5, 0.1}
    assert "model.bert.encoder.layer.0.output.dense.weight" in module.state_dict()
    assert "model.bert.encoder.layer.1.output.dense.weight" not in module.state_dict()
    with pytest.raises(ValueError, match=r"the configuration of .* has no layers; it has .*hidden_size"):
        check(Architecture(f"transformers/{folder}", {"layers": 1}))


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_activations_changes_no_gradient(kind: str, tokens: Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        module = _model(kind).train()
        if recompute:
            recompute_activations(module)
        torch.manual_seed(4)
        module(tokens).square().sum().backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_texts_longer_than_a_model_has_positions_for_are_refused_when_it_is_built() -> None:
    params = language_params("bert")
    with pytest.raises(ValueError, match=r"model 'transformers' cannot read what its task makes.*\(1, 25\)"):
        build(Architecture("transformers", params), TextEncoding(max_tokens=25, labels=("a", "b")))


def test_a_language_model_reads_no_images() -> None:
    with pytest.raises(ValueError, match="a text model needs a text Encoding"):
        build(Architecture("transformers", language_params("bert")), IMAGES)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"config": {"model_type": "berd"}}, "no configuration of a transformers model: .*berd"),
        ({"config": {"model_type": "vit"}}, "transformers makes no sequence classifier of 'vit'"),
        ({"config": {"hidden_size": 8}}, "no configuration of a transformers model"),
        ({}, "missing a required argument: 'config'"),
    ],
)
def test_what_is_no_language_model_is_refused_before_anything_is_built(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(Architecture("transformers", params))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no configuration of a transformers model at"):
        check(Architecture(f"transformers/{tmp_path}"))
    (tmp_path / "config.json").write_text(json.dumps(language_params("bert")["config"]))
    architecture = Architecture(f"transformers/{tmp_path}", {"pretrained": True})
    check(architecture)
    with pytest.raises(ValueError, match="no weights of a transformers model at"):
        load_pretrained(build(architecture, TEXT), architecture)


def test_code_that_a_model_brings_along_is_not_run(tmp_path: Path) -> None:
    params = language_params("bert")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {**params["config"], "auto_map": {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    build(Architecture(f"transformers/{tmp_path}"), TEXT)
    build(Architecture("transformers", {"config": config}), TEXT)
    assert not (tmp_path / "ran").exists()
