"""Attention whose heads can be shared out: torch's has query, key and value in one matrix, not to be cut by heads.

nn.MultiheadAttention's `in_proj_weight` [3W, W] holds the rows of all queries, then those of all keys, then of all
values; a half of its rows would be the queries and half of the keys. So where a model is cut in any way, each such
attention is replaced by one with three matrices, and a name in a full state stays what it was: `pack` joins the three.

Shape suffixes: B batch, L and S positions, W width, N heads, D width of a head.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

PROJECTIONS = ("query", "key", "value")


class SplitAttention(nn.Module):
    """Does what the nn.MultiheadAttention that it is made of does, but for the weights of the attention, which it keeps
    to itself (`need_weights` is ignored).
    """

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        width = packed.embed_dim
        if not (
            packed.batch_first and packed._qkv_same_embed_dim and packed.bias_k is None and not packed.add_zero_attn
        ):
            raise ValueError(
                "an nn.MultiheadAttention can be cut where it is batch_first, with keys and values as wide as queries "
                "and no row added to them"
            )
        self.head_width, self.dropout = width // packed.num_heads, packed.dropout
        has_bias = packed.in_proj_bias is not None
        device, dtype = packed.in_proj_weight.device, packed.in_proj_weight.dtype
        self.query, self.key, self.value = (
            nn.Linear(width, width, bias=has_bias, device=device, dtype=dtype) for _ in PROJECTIONS
        )
        self.out_proj = packed.out_proj
        with torch.no_grad():
            for name, weight in unpacked("", "in_proj_weight", packed.in_proj_weight).items():
                self.get_parameter(name).copy_(weight)
            if has_bias:
                for name, bias in unpacked("", "in_proj_bias", packed.in_proj_bias).items():
                    self.get_parameter(name).copy_(bias)
        # nn.TransformerEncoderLayer asks whether it may skip this module and use its matrices at once.
        self.batch_first = False

    def forward(
        self,
        query_BLW: Tensor,
        key_BSW: Tensor,
        value_BSW: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Masks are True, or -inf, where nothing is looked at: [B, S], and [L, S] or [B * N, L, S]."""
        query_BNLD, key_BNSD, value_BNSD = (
            torch.unflatten(project(x), -1, (-1, self.head_width)).transpose(1, 2)
            for project, x in ((self.query, query_BLW), (self.key, key_BSW), (self.value, value_BSW))
        )
        mask = _added(attn_mask, query_BNLD)
        if mask is not None and mask.ndim == 3:
            mask = torch.unflatten(mask, 0, (len(query_BLW), -1))
            assert mask.shape[1] in (1, query_BNLD.shape[1]), "a mask for each head cannot be cut by heads"
        padding_BS = _added(key_padding_mask, query_BNLD)
        if padding_BS is not None:
            mask = padding_BS[:, None, None, :] if mask is None else mask + padding_BS[:, None, None, :]
        mixed_BNLD = functional.scaled_dot_product_attention(
            query_BNLD, key_BNSD, value_BNSD, mask,
            dropout_p=self.dropout if self.training else 0.0, is_causal=is_causal and mask is None,
        )  # fmt: skip
        return self.out_proj(mixed_BNLD.transpose(1, 2).flatten(2)), None


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add to the scores."""
    if mask is None or mask.is_floating_point():
        return None if mask is None else mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def split_attention(module: nn.Module) -> None:
    """Replace every nn.MultiheadAttention within `module`; their numbers stay the same."""
    for name in attentions(module):
        module.set_submodule(name, SplitAttention(module.get_submodule(name)))  # type: ignore[arg-type]


def attentions(module: nn.Module) -> list[str]:
    """The names of attentions that are, or were, torch's."""
    kinds = (nn.MultiheadAttention, SplitAttention)
    return [name for name, child in module.named_modules() if isinstance(child, kinds)]


def unpacked(prefix: str, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """`in_proj_weight` or `in_proj_bias` of the attention `prefix` -> its three parts by name, which are views."""
    kind = name.removeprefix("in_proj_")
    return {f"{prefix}{part}.{kind}": rows for part, rows in zip(PROJECTIONS, tensor.chunk(3), strict=True)}


def unpack(tensors: Mapping[str, Tensor], attention_names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors by the names of a whole model -> by those of one that can be cut. Single numbers go to all parts."""
    result = dict(tensors)
    for attention in attention_names:
        for name in ("in_proj_weight", "in_proj_bias"):
            packed = result.pop(f"{attention}.{name}", None)
            if packed is not None and packed.ndim:
                result |= unpacked(f"{attention}.", name, packed)
            elif packed is not None:
                result |= {f"{attention}.{part}.{name.removeprefix('in_proj_')}": packed for part in PROJECTIONS}
    return result


def pack(tensors: Mapping[str, Tensor], attention_names: Iterable[str]) -> dict[str, Tensor]:
    """Inverse of `unpack`."""
    result = dict(tensors)
    for attention in attention_names:
        for kind in ("weight", "bias"):
            parts = [result.pop(f"{attention}.{part}.{kind}", None) for part in PROJECTIONS]
            found = [part for part in parts if part is not None]
            if found:
                result[f"{attention}.in_proj_{kind}"] = torch.cat(found) if found[0].ndim else found[0]
    return result


def packed_name(name: str, attention_names: Iterable[str]) -> str:
    """Under which name a whole model has the parameter `name` of one that can be cut."""
    for attention in attention_names:
        for part in PROJECTIONS:
            if name.startswith(f"{attention}.{part}."):
                return f"{attention}.in_proj_{name.rpartition('.')[2]}"
    return name
