"""Model settings -> a Llama-architecture decoder in plain torch (RMSNorm, rotary positions, SwiGLU).

0.1M-30M parameters: small enough to train from scratch in a study, real enough that every Hugging Face tool reads its
folder (`llama_weights` and `hf_config` give the names and settings of LlamaForCausalLM). On a CPU short rows are
fastest with an explicit batched matrix product and softmax, which also takes the block-diagonal mask of packed rows;
CUDA uses SDPA. There are two forms of each kernel: "fast" (hand-written backward passes, fewer passes over memory, for
eager training) and "plain" (ordinary torch, for compilers and second derivatives); the tests hold them equal.
Not covered: losses (loop.py), decoding (decode.py), files (checkpoints.py).

Shapes: B rows, T tokens, D width, H heads, K key-value heads, E head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leaven.core.rng import stream_seed
from leaven.errors import StudyError

INIT_STD = 0.02
SHORT_T = 512
"""Rows up to this length use explicit attention on a CPU (measured: 1.3-12x in bf16, equal in fp32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyConfig:
    """The shape of one model; `ffn` defaults to 8/3 of the width, rounded up to a multiple of 4."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    max_tokens: int
    tie: bool = False
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], vocab: int) -> TinyConfig:
        """Read the `model` section of a train spec.

        Raises:
            StudyError: the width does not divide into heads of an even size, or key-value heads do not divide the
                heads.
        """
        width, heads = int(spec["width"]), int(spec["heads"])
        kv_heads = int(spec.get("kv_heads") or heads)
        if width % heads or (width // heads) % 2 or heads % kv_heads:
            raise StudyError(
                f"model: expected a width that divides into heads of an even size and kv_heads that divide heads, "
                f"found width {width}, heads {heads}, kv_heads {kv_heads}; e.g. width 64, heads 4, kv_heads 2"
            )
        return cls(
            vocab=vocab,
            width=width,
            layers=int(spec["layers"]),
            heads=heads,
            kv_heads=kv_heads,
            ffn=int(spec.get("ffn") or -(-8 * width // 12) * 4),
            max_tokens=int(spec["max_tokens"]),
            tie=bool(spec.get("tie", False)),
            rope_theta=float(spec.get("rope_theta", 10_000.0)),
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> TinyConfig:
        """Read the config.json of a folder written by checkpoints.py."""
        rope = config.get("rope_parameters") or {}
        return cls(
            vocab=config["vocab_size"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            ffn=config["intermediate_size"],
            max_tokens=config["max_position_embeddings"],
            tie=config["tie_word_embeddings"],
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
            norm_eps=config["rms_norm_eps"],
        )

    @property
    def head_size(self) -> int:
        """Return E, the width of one head."""
        return self.width // self.heads

    def matmul_parameters(self) -> int:
        """Return the number of weights that multiply every token (layers and head, not the embedding look-up)."""
        attention = self.width * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.ffn) + self.vocab * self.width

    def n_parameters(self) -> int:
        """Return the number of parameters: L(2D^2 + 2DKE + 3DF + 2D) + D + VD (2VD when the head is not tied)."""
        embedding = 0 if self.tie else self.vocab * self.width
        return self.matmul_parameters() + embedding + (2 * self.layers + 1) * self.width

    def flops_per_token(self, row_tokens: float) -> float:
        """Return training FLOPs per token, 6 x (weights + causal attention at rows of `row_tokens`)."""
        return 6.0 * (self.matmul_parameters() + self.layers * self.width * row_tokens)

    def hf_config(self, end_id: int | None = None, pad_id: int | None = None) -> dict[str, Any]:
        """Return the config.json that makes AutoModelForCausalLM build the same function."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.max_tokens,
            "tie_word_embeddings": self.tie,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "head_dim": self.head_size,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "attention_dropout": 0.0,
            "initializer_range": INIT_STD,
            "bos_token_id": None,
            "eos_token_id": end_id,
            "pad_token_id": pad_id,
            "dtype": "float32",
            "torch_dtype": "float32",
        }


class _FastNorm(torch.autograd.Function):
    """RMS normalisation that reads its input twice forward and keeps one number per token for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(size).add_(eps).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, gain, scale)
        return (x * scale).mul_(gain)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, scale = ctx.saved_tensors
        size = x.shape[-1]
        unit = x * scale
        product = grad * unit
        grad_gain = product.view(-1, size).sum(0)
        along = torch.matmul(product, gain).div_(-size).unsqueeze(-1)
        return (grad * gain).addcmul_(unit, along).mul_(scale), grad_gain, None


class _FastAttention(torch.autograd.Function):
    """Fused projection [B,T,(H+2K)E] -> attention output [B,T,HE], with few passes over memory.

    `turn` complex[.., T,1,E/2] holds the rotation of every position; `mask` is additive [T,T] or [B,1,T,T].
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turn: Tensor, mask: Tensor, heads: int, kv_heads: int) -> Tensor:
        rows, tokens, _ = qkv.shape
        size = qkv.shape[-1] // (heads + 2 * kv_heads)
        split = qkv.view(rows, tokens, heads + 2 * kv_heads, size)
        # 1/sqrt(E) rides on the queries' rotation, so scores need no pass of their own
        q = _turned(split[:, :, :heads], turn * size**-0.5).view(-1, tokens, size)
        k = _turned(split[:, :, heads : heads + kv_heads], turn)
        v = split[:, :, heads + kv_heads :].transpose(1, 2).contiguous()
        k, v = (_for_every_head(x, heads).view(-1, tokens, size) for x in (k, v))
        if mask.dim() == 4:
            mask = mask.expand(rows, heads, tokens, tokens).reshape(-1, tokens, tokens)
        share = torch.baddbmm(mask, q, k.transpose(1, 2)).softmax(-1)
        ctx.save_for_backward(q, k, v, share, turn)
        ctx.shape = rows, tokens, heads, kv_heads, size
        return torch.bmm(share, v).view(rows, heads, tokens, size).transpose(1, 2).reshape(rows, tokens, heads * size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, share, turn = ctx.saved_tensors
        rows, tokens, heads, kv_heads, size = ctx.shape
        grad = grad.view(rows, tokens, heads, size).transpose(1, 2).reshape(-1, tokens, size)
        grad_v = torch.bmm(share.transpose(1, 2), grad)
        scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), share, -1, share.dtype)
        grad_q, grad_k = torch.bmm(scores, k), torch.bmm(scores.transpose(1, 2), q)
        per_head = (rows, kv_heads, heads // kv_heads, tokens, size)
        if kv_heads != heads:
            grad_k, grad_v = grad_k.view(per_head).sum(2), grad_v.view(per_head).sum(2)
        out = grad.new_empty(rows, tokens, heads + 2 * kv_heads, size)
        back = turn.conj().resolve_conj()
        _turn_into(grad_q.view(rows, heads, tokens, size).transpose(1, 2), back * size**-0.5, out[:, :, :heads])
        middle = out[:, :, heads : heads + kv_heads]
        _turn_into(grad_k.view(rows, kv_heads, tokens, size).transpose(1, 2), back, middle)
        out[:, :, heads + kv_heads :].copy_(grad_v.view(rows, kv_heads, tokens, size).transpose(1, 2))
        return out.view(rows, tokens, -1), None, None, None, None


def _turned(x_BTHE: Tensor, turn: Tensor) -> Tensor:
    """Return x rotated, in memory order [B,heads,T,E]."""
    rows, tokens, heads, size = x_BTHE.shape
    out = x_BTHE.new_empty(rows, heads, tokens, size)
    _turn_into(x_BTHE, turn, out.transpose(1, 2))
    return out


def _turn_into(x_BTHE: Tensor, turn: Tensor, out_BTHE: Tensor) -> None:
    """Write x rotated by `turn` into `out` (any strides); neighbours are one complex number: one product."""
    if x_BTHE.dtype == torch.float32:
        pairs = [t.unflatten(-1, (-1, 2)) for t in (x_BTHE, out_BTHE)]
        torch.mul(torch.view_as_complex(pairs[0]), turn, out=torch.view_as_complex(pairs[1]))
    else:
        wide = torch.view_as_complex(x_BTHE.float().unflatten(-1, (-1, 2))) * turn
        out_BTHE.copy_(torch.view_as_real(wide).flatten(-2))


def _for_every_head(x_BKTE: Tensor, heads: int) -> Tensor:
    """Repeat key-value heads so that each query head has its own."""
    return x_BKTE if x_BKTE.shape[1] == heads else x_BKTE.repeat_interleave(heads // x_BKTE.shape[1], 1)


class RMSNorm(nn.Module):
    """x / rms(x) x gain, as in Llama."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, kernels: str = "plain") -> Tensor:
        """Normalise the last dimension."""
        if kernels == "fast":
            return _FastNorm.apply(x, self.weight, self.eps)
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Layer(nn.Module):
    """One decoder layer: normalised attention and normalised SwiGLU, each added to the stream."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        width, size = config.width, config.head_size
        self.config = config
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.qkv = nn.Linear(width, (config.heads + 2 * config.kv_heads) * size, bias=False)
        self.out = nn.Linear(config.heads * size, width, bias=False)
        self.ffn_norm = RMSNorm(width, config.norm_eps)
        # two products, not one fused: the activation then runs on contiguous memory (0.3 against 0.6 ms at 2,600 x 172)
        self.gate = nn.Linear(width, config.ffn, bias=False)
        self.up = nn.Linear(width, config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, width, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        turn: Tensor,
        mask: Tensor | None,
        kernels: str,
        cache: LayerCache | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the stream after this layer; `mask` is additive and broadcasts to [B,1,T,S]; None means causal.

        With `at`, only these tokens of the flattened rows go on after attention, and the stream is [M,D].
        """
        c = self.config
        qkv = self.qkv(self.attention_norm(x_BTD, kernels))
        short = not qkv.is_cuda and qkv.shape[1] <= SHORT_T
        if kernels == "fast" and cache is None and short:
            ones = causal_mask(qkv.shape[1], qkv.dtype) if mask is None else mask
            mixed = _FastAttention.apply(qkv, turn, ones, c.heads, c.kv_heads)
        else:
            q, k, v = self.heads(qkv, turn)
            if cache is not None:
                k, v = cache.extend(k, v)
            mixed = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        if at is not None:
            x_BTD, mixed = (t.flatten(0, 1).index_select(0, at) for t in (x_BTD, mixed))
        x_BTD = x_BTD + self.out(mixed)
        normed = self.ffn_norm(x_BTD, kernels)
        return x_BTD + self.down(F.silu(self.gate(normed)) * self.up(normed))

    def heads(self, qkv: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B,H,T,E] and keys, and values [B,K,T,E]."""
        c = self.config
        split = qkv.unflatten(-1, (c.heads + 2 * c.kv_heads, c.head_size))
        # the same rotation in real arithmetic: compilers do not fuse complex numbers
        cos, sin = (torch.view_as_real(turn).to(qkv.dtype) if turn.is_complex() else turn).unbind(-1)
        even, odd = split[:, :, : c.heads + c.kv_heads].unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).transpose(1, 2)
        return turned[:, : c.heads], turned[:, c.heads :], split[:, :, c.heads + c.kv_heads :].transpose(1, 2)


class LayerCache:
    """Keys and values [B,K,S,E] of one layer during decoding.

    `at` holds the row and column numbers of the next tokens; None means prefill, which starts at column 0.
    """

    __slots__ = ("at", "keys", "used", "values")

    def __init__(self, rows: int, columns: int, like: Tensor) -> None:
        shape = (rows, like.shape[1], columns, like.shape[3])
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.at: tuple[Tensor, Tensor] | None = None
        self.used = columns

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values and return those that this call may look at."""
        if self.at is None:
            self.keys[:, :, : k.shape[2]], self.values[:, :, : k.shape[2]] = k, v
            return k, v
        rows, columns = self.at
        self.keys[rows, :, columns], self.values[rows, :, columns] = k[:, :, 0], v[:, :, 0]
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]


def attend(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(E) + mask) v [B,H,T,E]; without a mask it is causal, a single query sees all."""
    rows, heads, queries, size = q_BHTE.shape
    keys = k_BKSE.shape[2]
    k_BKSE, v_BKSE = _for_every_head(k_BKSE, heads), _for_every_head(v_BKSE, heads)
    if q_BHTE.is_cuda or keys > SHORT_T:
        causal = mask is None and queries > 1
        return F.scaled_dot_product_attention(q_BHTE, k_BKSE, v_BKSE, attn_mask=mask, is_causal=causal)
    if mask is None:
        mask = causal_mask(queries, q_BHTE.dtype) if queries > 1 else q_BHTE.new_zeros(1, 1)
    scores = (q_BHTE * size**-0.5) @ k_BKSE.transpose(-1, -2) + mask
    return scores.softmax(-1) @ v_BKSE


_MASKS: dict[tuple[int, torch.dtype], Tensor] = {}


def causal_mask(tokens: int, dtype: torch.dtype) -> Tensor:
    """Return the additive causal mask [T,T], 0 where a query may look and -inf elsewhere."""
    key = (tokens, dtype)
    if key not in _MASKS:
        with torch.inference_mode(
            False
        ):  # kept beyond this call, which may be in inference mode while the next one is not
            _MASKS[key] = torch.full((tokens, tokens), float("-inf"), dtype=dtype).triu(1)
    return _MASKS[key]


def document_mask(document_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask [B,1,T,T] of packed rows: a token sees earlier tokens of its own document only."""
    tokens = document_BT.shape[1]
    same = document_BT[:, :, None] == document_BT[:, None, :]
    allowed = same & torch.ones(tokens, tokens, dtype=torch.bool, device=same.device).tril()
    return torch.zeros((), dtype=dtype, device=same.device).where(allowed, float("-inf"))[:, None]


class TinyModel(nn.Module):
    """The decoder: `hidden` runs the layers, and losses multiply target rows alone by `head_weight`."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tie else nn.Linear(config.width, config.vocab, bias=False)
        self.kernels: Literal["fast", "plain"] = "fast"
        frequency = config.rope_theta ** -(torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size)
        angle = torch.arange(config.max_tokens, dtype=torch.float64)[:, None] * frequency
        # a plain attribute: Module.to(bfloat16) would ruin complex numbers held as a buffer
        self.turn = torch.polar(torch.ones_like(angle), angle)[:, None].to(torch.complex64)

    @property
    def head_weight(self) -> Tensor:
        """Return the output projection [V,D]."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: list[LayerCache] | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the normalised last hidden states [B,T,D]; positions default to 0..T-1, the mask to causal.

        With `at` [M], places in the flattened rows, return the states of these tokens [M,D]; the last layer then
        computes its second half for them alone.
        """
        x = self.embedding(ids_BT)
        if self.turn.device != x.device:
            self.turn = self.turn.to(x.device)
        turn = self.turn[: ids_BT.shape[1]] if positions_BT is None else self.turn[positions_BT]
        if self.kernels == "plain":
            turn = torch.view_as_real(turn).to(x.dtype)
        for i, layer in enumerate(self.layers):
            last = i == len(self.layers) - 1
            x = layer(x, turn, mask, self.kernels, cache[i] if cache else None, at if last else None)
        return self.norm(x, self.kernels)

    def attention(self, ids_BT: Tensor, layers: Sequence[int]) -> Tensor:
        """Return the causal attention weights [L,B,H,T,T] of `layers` (plain kernels; never used in training)."""
        c = self.config
        x = self.embedding(ids_BT)
        turn = torch.view_as_real(self.turn[: ids_BT.shape[1]].to(x.device)).to(x.dtype)
        mask = causal_mask(ids_BT.shape[1], x.dtype).to(x.device)
        shares = {}
        for i, layer in enumerate(self.layers):
            if i in layers:
                q, k, _ = layer.heads(layer.qkv(layer.attention_norm(x)), turn)
                scores = (q * c.head_size**-0.5) @ _for_every_head(k, c.heads).transpose(-1, -2)
                shares[i] = (scores + mask).softmax(-1)
            x = layer(x, turn, None, "plain")
        return torch.stack([shares[i] for i in layers])

    def forward(self, ids_BT: Tensor, positions_BT: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return logits [B,T,V]."""
        return F.linear(self.hidden(ids_BT, positions_BT, mask), self.head_weight)


def init_tiny(config: TinyConfig, seed: int) -> TinyModel:
    """Return a model drawn from (seed, "init"): normal 0.02, projections into the stream divided by sqrt(2L)."""
    model = TinyModel(config)
    generator = torch.Generator().manual_seed(stream_seed(seed, "init") % 2**63)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            into_stream = name.endswith(("out.weight", "down.weight"))
            std = INIT_STD / math.sqrt(2 * config.layers) if into_stream else INIT_STD
            nn.init.normal_(parameter, 0.0, std, generator=generator)
    return model


_NAMES = {
    "attention_norm": "input_layernorm",
    "out": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


_OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def llama_weights(config: TinyConfig, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename this model's parameters (or their gradients) to LlamaForCausalLM's and split the fused projection.

    Rotated pairs are neighbours here and lie half a head apart in Llama; rows are reordered accordingly.
    """
    result: dict[str, Tensor] = {}
    for name, value in named.items():
        if not name.startswith("layers."):
            result[_OUTER[name]] = value
            continue
        _, index, part, _ = name.split(".")
        prefix = f"model.layers.{index}"
        if part == "qkv":
            key_rows = config.kv_heads * config.head_size
            q, k, v = value.split([config.heads * config.head_size, key_rows, key_rows])
            result[f"{prefix}.self_attn.q_proj.weight"] = _halves(q, config.heads)
            result[f"{prefix}.self_attn.k_proj.weight"] = _halves(k, config.kv_heads)
            result[f"{prefix}.self_attn.v_proj.weight"] = v
        else:
            result[f"{prefix}.{_NAMES[part]}.weight"] = value
    return result


def from_llama_weights(config: TinyConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return this model's state from LlamaForCausalLM names; the inverse of `llama_weights`."""
    result = {ours: weights[theirs] for ours, theirs in _OUTER.items() if ours != "head.weight" or not config.tie}
    for i in range(config.layers):
        prefix = f"model.layers.{i}"
        q, k, v = (weights[f"{prefix}.self_attn.{letter}_proj.weight"] for letter in "qkv")
        result[f"layers.{i}.qkv.weight"] = torch.cat([_pairs(q, config.heads), _pairs(k, config.kv_heads), v])
        for ours, theirs in _NAMES.items():
            result[f"layers.{i}.{ours}.weight"] = weights[f"{prefix}.{theirs}.weight"]
    return result


def _halves(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _pairs(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
