"""Sequence classifiers of the library transformers (BERT, GPT-2, T5 and others): int64 tokens [B, L], right-padded,
-> float32 logits [B, classes]. This is the one module that imports it.

A model's configuration is data: `read_config` reads it once, from a folder or from the hub, and what is trained,
saved and loaded again needs neither. No code that a model brings along is run.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.encoding import Encoding, TextEncoding
from training.models.text import text_encoding
from training.models.torchvision_door import declare_operators

# Not of the model's shape, or to be decided here: where it came from, its labels, its precision, and whatever
# would fetch code or kernels.
_LEFT_OUT = (
    *("_name_or_path", "architectures", "transformers_version"),
    *("id2label", "label2id", "num_labels", "problem_type", "use_cache"),
    *("dtype", "torch_dtype", "quantization_config"),
    *("attn_implementation", "_attn_implementation", "auto_map", "custom_pipelines"),
)
_T5_TYPES = ("t5", "mt5", "umt5")


class SequenceClassifier(nn.Module):
    """A transformers model with a head for sequences; `tokens != pad_id` is its attention mask."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.model = model

    def forward(self, tokens_BL: Tensor) -> Tensor:
        logits_BC: Tensor = self.model(tokens_BL, attention_mask=(tokens_BL != self.pad_id).long()).logits
        return logits_BC


class T5Classifier(SequenceClassifier):
    """The head of T5ForSequenceClassification on the state of a text's last token, which its tokenizer makes `</s>`.

    transformers looks for `</s>` itself and refuses a batch whose texts hold it unequally often; here no text can
    fail its neighbours, and the graph can be exported. On its own tokenizer's texts the two agree.
    """

    def forward(self, tokens_BL: Tensor) -> Tensor:
        model: Any = self.model
        mask_BL = tokens_BL != self.pad_id
        start_B1 = torch.full_like(tokens_BL[:, :1], model.config.decoder_start_token_id)
        states_BLS = model.transformer(
            tokens_BL,
            attention_mask=mask_BL.long(),
            decoder_input_ids=torch.cat([start_B1, tokens_BL[:, :-1]], dim=1),
            use_cache=False,
        ).last_hidden_state
        last_B11 = (mask_BL.sum(dim=1) - 1).clamp(min=0)[:, None, None]
        last_BS = states_BLS.gather(1, last_B11.expand(-1, -1, states_BLS.shape[2])).squeeze(1)
        logits_BC: Tensor = model.classification_head(last_BS)
        return logits_BC


def read_config(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the model `name`, a folder or a name on the hub, as JSON data, with `changes` of its fields.

    Raises ValueError where there is none, or it lacks a field that is to be changed.
    """
    try:
        config = _library().AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no configuration of a transformers model at {name!r}: {error}") from error
    unknown = [field for field in changes if not hasattr(config, field)]
    if unknown:
        raise ValueError(f"the configuration of {name!r} has no {', '.join(unknown)}; it has {', '.join(vars(config))}")
    for field, value in changes.items():
        setattr(config, field, value)
    data: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in data.items() if key not in _LEFT_OUT}


def sequence_classifier(encoding: Encoding, config: Mapping[str, Any], pretrained: str | None = None) -> nn.Module:
    """An untrained classifier by `config`, as `read_config` returns it; the Encoding gives classes and padding.

    `pretrained` names where `training.models.pretrained` finds weights to start from.
    """
    text = text_encoding(encoding)
    made = _config(config, text)
    is_t5 = made.model_type in _T5_TYPES
    # T5's fused attention leaves its result in an order of memory that the exporter cannot follow.
    attention = {"attn_implementation": "eager"} if is_t5 else {}
    model = _library().AutoModelForSequenceClassification.from_config(made, dtype=torch.float32, **attention)
    return (T5Classifier if is_t5 else SequenceClassifier)(model, text.pad_id)


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ValueError where `config` is of no model that transformers can classify sequences with."""
    library = _library()
    made = _config(config, TextEncoding(max_tokens=1, labels=("", "")))
    try:
        with torch.device("meta"):
            library.AutoModelForSequenceClassification.from_config(made)
    except NotImplementedError:
        pass  # a model that reads values while it is built can only be built in earnest
    except Exception as error:
        kind = config.get("model_type")
        raise ValueError(f"transformers makes no sequence classifier of {kind!r} by this: {error}") from error


def pretrained_weights(module: nn.Module, name: str) -> Mapping[str, Tensor]:
    """The weights at `name`, a folder or a name on the hub, as a SequenceClassifier names them. What they do not
    hold, as the head of a model that was never a classifier, is left out.

    Raises ValueError where there are none.
    """
    assert isinstance(module, SequenceClassifier)
    model: Any = module.model
    try:
        with _quiet():
            loaded, about = type(model).from_pretrained(
                name, config=model.config, trust_remote_code=False, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"no weights of a transformers model at {name!r}: {error}") from error
    fresh = {*about["missing_keys"], *(key for key, *_ in about["mismatched_keys"])}
    return {f"model.{key}": tensor for key, tensor in loaded.state_dict().items() if key not in fresh}


def _config(data: Mapping[str, Any], text: TextEncoding) -> Any:
    fields = {key: value for key, value in data.items() if key not in _LEFT_OUT}
    try:
        config = _library().AutoConfig.for_model(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"this is no configuration of a transformers model: {error}") from error
    config.num_labels = len(text.labels)
    config.pad_token_id = text.pad_id
    config.use_cache = False
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = text.pad_id
    return config


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers tells of a load in a table and a bar of its own; WeightsReport says the same."""
    logging = _library().logging
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _library() -> Any:
    declare_operators()  # some of its modules import torchvision
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError("models named transformers/... need it: pip install 'tandem-serve[text]'") from error
    return transformers
