"""Layout: how a model is taken apart between processes. What holds of each family stands in one function or line.

A model of one's own says the same of itself: a method `pieces()` returns its Pieces, and a layer of it that can be cut
has an attribute `split`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Run = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Piece:
    """One link of the chain that a model is: (what the piece before made, the model's inputs) -> what it makes.

    `names` are the submodules and parameters that it uses; no other piece uses one of them. Float tensors of the batch
    go from one to the next.
    """

    names: tuple[str, ...]
    run: Run


@dataclass(frozen=True)
class Split:
    """Linear layers of one module that processes share: `columns` are cut by their outputs, and `rows`, which these
    feed, by their inputs, so that one sum over the processes at the end is all that is sent (Shoeybi et al. 2019).
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]


def pieces(module: nn.Module) -> list[Piece]:
    """Raises ValueError where nobody has said how `module` is taken apart."""
    own: Callable[[], list[Piece]] | None = getattr(module, "pieces", None)
    if own is not None:
        return own()
    family = _PIECES.get(_kind(module))
    if family is not None:
        return family(module)
    if type(module) is nn.Sequential:
        return _chain(module)
    raise ValueError(
        f"{_kind(module)} cannot be cut into a pipeline: it is no nn.Sequential and has no pieces() "
        "(training/parallel/layout.py); use tensor, sharded or data parallel"
    )


def splits(module: nn.Module) -> list[tuple[nn.Module, Split]]:
    """The modules within `module` that can be cut, and how; torch's attentions after `split_attention` alone."""
    found = []
    for child in module.modules():
        split = getattr(child, "split", None)
        split = split if isinstance(split, Split) else _SPLITS.get(_kind(child))
        if split is not None:
            found.append((child, split))
    return found


def cut(module: nn.Module, stages: int) -> list[list[Piece]]:
    """The pieces of `module` in `stages` runs of about as many weights each; embeddings, which cost nothing, apart.

    Raises ValueError where there are too few of them.
    """
    chain = pieces(module)
    costs = [_cost(module, piece) for piece in chain]
    runs: list[list[Piece]] = [[] for _ in range(stages)]
    before, total = 0, max(1, sum(costs))
    for piece, cost in zip(chain, costs, strict=True):
        runs[min(stages - 1, (2 * before + cost) * stages // (2 * total))].append(piece)
        before += cost
    if not all(any(_cost(module, piece) for piece in run) for run in runs):
        raise ValueError(
            f"{_kind(module)} has {sum(cost > 0 for cost in costs)} pieces with weights, which do not fill {stages} "
            "stages: use fewer (pipeline)"
        )
    return runs


def owns(run: Iterable[Piece], name: str) -> bool:
    """Whether a parameter or buffer belongs to one of these pieces."""
    return any(name == own or name.startswith(f"{own}.") for piece in run for own in piece.names)


def _cost(module: nn.Module, piece: Piece) -> int:
    tables = {id(table.weight) for table in module.modules() if isinstance(table, nn.Embedding)}
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in tables and owns([piece], name)
    )


def _kind(module: nn.Module) -> str:
    """The qualified name of its class, by which families are known without importing them."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _within(name: str, chain: list[Piece]) -> list[Piece]:
    """The pieces of the submodule `name`, as its parent's."""
    return [replace(piece, names=tuple(f"{name}.{own}" for own in piece.names)) for piece in chain]


def _chain(module: nn.Module) -> list[Piece]:
    """An nn.Sequential: its children, taken apart themselves where that is known."""
    chain: list[Piece] = []
    for name, child in module.named_children():
        known = type(child) is nn.Sequential or _kind(child) in _PIECES or hasattr(child, "pieces")
        chain += _within(name, pieces(child)) if known else [Piece((name,), _alone(child))]
    return chain


def _alone(module: nn.Module) -> Run:
    return lambda x, inputs: module(x)


def _transformer(module: Any) -> list[Piece]:
    """training.models.transformer: embedding, layers, pooling and head. Each layer sees anew where the padding is."""

    def embed(x: Tensor, tokens_BL: Tensor) -> Tensor:
        embedded: Tensor = module.embed(tokens_BL)
        return embedded

    def layer(block: nn.Module) -> Run:
        def run(x_BLW: Tensor, tokens_BL: Tensor) -> Tensor:
            out_BLW: Tensor = block(x_BLW, module.seen(tokens_BL))
            return out_BLW

        return run

    def answer(x_BLW: Tensor, tokens_BL: Tensor) -> Tensor:
        logits_BC: Tensor = module.answer(x_BLW, tokens_BL)
        return logits_BC

    layers = [Piece((f"layers.{number}",), layer(block)) for number, block in enumerate(module.layers)]
    return [Piece(("embedding", "positions"), embed), *layers, Piece(("norm", "pooling", "head", "words"), answer)]


def _vision_transformer(module: Any) -> list[Piece]:
    """torchvision's ViT: patches and their places, layers, the class token's answer."""
    encoder = module.encoder

    def embed(images_BCHW: Tensor, inputs: Tensor) -> Tensor:
        patches_BLW = module._process_input(images_BCHW)
        token_B1W = module.class_token.expand(len(patches_BLW), -1, -1)
        embedded: Tensor = encoder.dropout(torch.cat([token_B1W, patches_BLW], dim=1) + encoder.pos_embedding)
        return embedded

    def answer(x_BLW: Tensor, inputs: Tensor) -> Tensor:
        logits_BC: Tensor = module.heads(encoder.ln(x_BLW)[:, 0])
        return logits_BC

    layers = [Piece((f"encoder.layers.{name}",), _alone(block)) for name, block in encoder.layers.named_children()]
    first = Piece(("class_token", "conv_proj", "encoder.pos_embedding"), embed)
    return [first, *layers, Piece(("encoder.ln", "heads"), answer)]


def _image_network(module: Any) -> list[Piece]:
    """training.models.imagenet: a network behind the preparation of its images."""
    first, *rest = _within("network", pieces(module.network))

    def embed(images_BCHW: Tensor, inputs: Tensor) -> Tensor:
        x_BCHW = module.normalize(images_BCHW.expand(-1, 3, -1, -1))
        if module.side is not None:
            x_BCHW = functional.interpolate(x_BCHW, module.side, mode="bilinear", align_corners=False)
        return first.run(x_BCHW, inputs)

    return [Piece(("normalize", *first.names), embed), *rest]


_PIECES: dict[str, Callable[[Any], list[Piece]]] = {
    "training.models.transformer.Transformer": _transformer,
    "training.models.imagenet.ImageNetwork": _image_network,
    "torchvision.models.vision_transformer.VisionTransformer": _vision_transformer,
}
_SPLITS: dict[str, Split] = {
    "training.models.transformer.Attention": Split(("query", "key", "value"), ("out",)),
    "training.models.transformer.EncoderLayer": Split(("feedforward.0",), ("feedforward.3",)),
    "training.parallel.attention.SplitAttention": Split(("query", "key", "value"), ("out_proj",)),
    "torch.nn.modules.transformer.TransformerEncoderLayer": Split(("linear1",), ("linear2",)),
    "torchvision.models.vision_transformer.MLPBlock": Split(("0",), ("3",)),
}
