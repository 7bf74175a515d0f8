"""The embedded model as something the training loop and the backend can drive.

Not covered: what the model computes (tiny_model.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leaven.core.step import Resources
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError
from leaven.lm.checkpoints import is_tiny, load_tiny, save_tiny
from leaven.lm.local import LocalBackend
from leaven.lm.loss import target_logprobs, weighted_loss
from leaven.lm.process import prepare_process
from leaven.lm.tiny_model import LayerCache, TinyConfig, TinyModel, document_mask, init_tiny, llama_weights


class TinyTrainable:
    """A TinyModel with what the loop asks for (loop.Trainable)."""

    def __init__(self, model: TinyModel, tokenizer: Tokenizer) -> None:
        self.module, self.tokenizer = model, tokenizer
        self.width, self.max_tokens = model.config.width, model.config.max_tokens

    @classmethod
    def open(
        cls, spec: Mapping[str, Any], seed: int, tokenizer: Tokenizer, folder: Path | None, device: str
    ) -> TinyTrainable:
        """Build the model of a `model` section, from its seed or with the weights of `folder`.

        Raises:
            BackendError: the folder holds a model of another shape or vocabulary.
        """
        config = TinyConfig.from_spec(spec, tokenizer.vocab_size)
        if folder is None:
            return cls(init_tiny(config, seed).to(device), tokenizer)
        if not is_tiny(folder):
            raise BackendError(
                f"{folder}: expected a folder of the embedded model for model.kind tiny, found another architecture; "
                "use model.kind: hf"
            )
        model = load_tiny(folder, device)
        if model.config != config:
            raise BackendError(
                f"{folder}: expected a model of shape {config}, found {model.config}; later stages keep shape and "
                "tokenizer of the first"
            )
        return cls(model, tokenizer)

    def hidden(self, ids: Tensor, positions: Tensor | None, document: Tensor | None, at: Tensor) -> Tensor:
        """Return the last hidden states [M,D] of the tokens `at` these places of the flattened rows."""
        mask = None if document is None else document_mask(document, self.module.embedding.weight.dtype)
        return self.module.hidden(ids, positions, mask, at=at)

    def loss(self, hidden_MD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
        """Return the weighted loss of target tokens."""
        return weighted_loss(hidden_MD, self.module.head_weight, targets_M, weights_M)

    def logprobs(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """Return log p(target) in nats [M]."""
        return target_logprobs(hidden_MD, self.module.head_weight, targets_M)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Return next-token logits [M,V]."""
        return hidden_MD @ self.module.head_weight.t()

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""
        return self.module.config.layers

    def attention(self, ids: Tensor, layers: Sequence[int]) -> Tensor:
        """Return attention weights [L,B,H,T,T] of these layers."""
        return self.module.attention(ids, layers)

    def compile(self) -> None:
        """Compile one layer; all layers share the result, so compiling takes as long for 3 as for 30."""
        self.module.kernels = "plain"
        for layer in self.module.layers:
            layer.compile(dynamic=False)

    def flops_per_token(self, row_tokens: float) -> float:
        """Return training FLOPs per token."""
        return self.module.config.flops_per_token(row_tokens)

    def named_for_hf(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors under LlamaForCausalLM names."""
        return llama_weights(self.module.config, named)

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write config and weights."""
        save_tiny(folder, self.module, weights, self.tokenizer.end_id, self.tokenizer.pad_id)


class TinyDecoder:
    """Right-padded key-value cache: every row keeps its own next column, so padding is never looked at."""

    def __init__(self, model: TinyModel) -> None:
        self.model, self.max_tokens = model, model.config.max_tokens

    def prefill(self, prompts: Sequence[list[int]], columns: int) -> Tensor:
        """Start a batch; return next-token logits [B,V]."""
        device, config = self.model.head_weight.device, self.model.config
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        like = self.model.head_weight.new_empty(1, config.kv_heads, 1, config.head_size)
        self.cache = [LayerCache(len(prompts), columns, like) for _ in range(config.layers)]
        # padding stands to the right, where the causal mask hides it; its cache columns are overwritten as the row
        # grows
        hidden = self.model.hidden(ids.to(device), cache=self.cache)
        self.next, self.rows, self.columns = (
            lengths,
            torch.arange(len(prompts), device=device),
            torch.arange(columns, device=device),
        )
        return hidden[self.rows, lengths - 1] @ self.model.head_weight.t()

    def advance(self, tokens_B: Tensor) -> Tensor:
        """Append one token per row; return next-token logits [B,V]."""
        at = self.next.clamp(max=len(self.columns) - 1)  # ended rows run on in place until they are dropped
        used = int(at.max()) + 1
        mask = torch.zeros((), device=at.device).where(self.columns[None, :used] <= at[:, None], float("-inf"))[
            :, None, None
        ]
        for layer in self.cache:
            layer.at, layer.used = (self.rows, at), used
        hidden = self.model.hidden(tokens_B[:, None], at[:, None], mask, self.cache)
        self.next = at + 1
        return hidden[:, 0] @ self.model.head_weight.t()

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        for layer in self.cache:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self.next, self.rows = self.next[rows], torch.arange(len(rows), device=rows.device)


class TinyBackend(LocalBackend):
    """The embedded model behind the Backend protocol."""

    @classmethod
    def open(cls, folder: Path, resources: Resources) -> TinyBackend:
        """Load a folder written by training."""
        prepare_process(resources)
        tokenizer = Tokenizer.load(folder)
        model = load_tiny(folder, resources.device).eval()
        return cls(TinyTrainable(model, tokenizer), TinyDecoder(model), tokenizer, resources)
