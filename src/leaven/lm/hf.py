"""Local Hugging Face folders (Llama, Qwen2, Mistral, GPT-2) behind the same loop and Backend as the embedded model.

Only folders on this machine are opened; nothing is ever downloaded. Layers run as transformers defines them; the loop
asks for last hidden states and computes logits of target tokens only, so an architecture whose head does more than one
linear map (soft-capped logits, logit scales) is refused when it is opened rather than trained wrongly.
Not covered: several devices, adapters, quantised weights, chat templates (a format's own markers are used).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from leaven.core.step import Resources
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError, MissingExtraError
from leaven.lm.local import LocalBackend
from leaven.lm.loss import target_logprobs, weighted_loss
from leaven.lm.process import prepare_process
from leaven.lm.tiny_model import document_mask


class HfTrainable:
    """A causal language model of transformers with what the loop asks for (loop.Trainable)."""

    def __init__(self, module: Any, tokenizer: Tokenizer) -> None:
        """Use `open`."""
        self.module, self.tokenizer = module, tokenizer
        self.width, self.max_tokens = module.config.hidden_size, module.config.max_position_embeddings
        self.head = module.get_output_embeddings()

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer, device: str) -> HfTrainable:
        """Load a local folder in fp32.

        Raises:
            BackendError: no local model folder, another vocabulary, or a head that is not one linear map.
            MissingExtraError: transformers is not installed.
        """
        model = cls(_load(folder).to(device), tokenizer)
        if tokenizer.vocab_size > model.head.weight.shape[0]:
            raise BackendError(
                f"{folder}: expected a model with at least {tokenizer.vocab_size} tokens (its tokenizer's), found "
                f"{model.head.weight.shape[0]}; use the tokenizer that belongs to this model"
            )
        model._check_head(folder)
        return model

    @torch.no_grad()
    def _check_head(self, folder: Path) -> None:
        """Compare our logits with the model's own on a few tokens."""
        self.module.eval()
        ids = torch.arange(min(8, self.head.weight.shape[0]), device=self.head.weight.device)[None]
        if not torch.allclose(
            self.head(self.hidden(ids, None, None, ids[0])), self.module(ids).logits[0], atol=1e-4, rtol=1e-4
        ):
            raise BackendError(
                f"{folder}: expected logits that are one linear map of the last hidden state, found that "
                f"{type(self.module).__name__} does more; leaven trains Llama, Qwen2, Mistral and GPT-2 like models"
            )

    def hidden(self, ids: Tensor, positions: Tensor | None, document: Tensor | None, at: Tensor) -> Tensor:
        """Return last hidden states [M,D] of the tokens `at`; packed documents have their own positions and mask."""
        mask = None if document is None else document_mask(document, self.head.weight.dtype)
        output = self.module.base_model(
            input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False, return_dict=True
        )
        return output.last_hidden_state.flatten(0, 1).index_select(0, at)

    def loss(self, hidden_MD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
        """Return the weighted loss of target tokens."""
        return weighted_loss(hidden_MD, self.head.weight, targets_M, weights_M)

    def logprobs(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """Return log p(target) in nats [M]."""
        return target_logprobs(hidden_MD, self.head.weight, targets_M)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Return next-token logits [M,V]."""
        return self.head(hidden_MD)

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""
        return self.module.config.num_hidden_layers

    def attention(self, ids: Tensor, layers: Sequence[int]) -> Tensor:
        """Return attention weights [L,B,H,T,T]; only the eager form of transformers gives them, so it is lent to one call.

        Raises:
            BackendError: the architecture does not return them.
        """
        before = self.module.config._attn_implementation
        self.module.set_attn_implementation("eager")
        try:
            found = self.module.base_model(input_ids=ids, use_cache=False, output_attentions=True, return_dict=True)
        finally:
            self.module.set_attn_implementation(before)
        if not found.attentions or any(found.attentions[i] is None for i in layers):
            raise BackendError(
                f"attention: expected weights of {self.n_layers} layers from {type(self.module).__name__}, found none; "
                "leave the attention probe out for this architecture"
            )
        return torch.stack([found.attentions[i] for i in layers])

    def compile(self) -> None:
        """Compile the layers as transformers defines them."""
        self.module.base_model.compile(dynamic=False)

    def flops_per_token(self, row_tokens: float) -> float:
        """Return training FLOPs per token: 6 x (weights without the look-up embedding + causal attention)."""
        embedding = self.module.get_input_embeddings().weight
        looked_up = 0 if embedding is self.head.weight else embedding.numel()
        weights = sum(p.numel() for p in self.module.parameters()) - looked_up
        return 6.0 * (weights + self.module.config.num_hidden_layers * self.width * row_tokens)

    def named_for_hf(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors under Hugging Face names, which they have already."""
        return dict(named)

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write config and fp32 weights as transformers does."""
        self.module.save_pretrained(folder, state_dict={k: v.detach().cpu().clone() for k, v in weights.items()})


def _load(folder: Path) -> Any:
    """Return the model of a local folder, fp32, without ever asking a hub."""
    if not (folder / "config.json").is_file():
        raise BackendError(
            f"model {str(folder)!r}: expected a local folder with config.json and weights, found none; leaven never "
            f"downloads models, "
            "so fetch it first and give its folder"
        )
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", f"the model folder {folder}") from error
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BackendError(
            f"{folder}: expected a causal language model that transformers {transformers.__version__} can load, "
            f"{type(error).__name__}: {error}"
        ) from error


class HfDecoder:
    """Left-padded cache of transformers with explicit masks and positions, so padding changes nothing."""

    def __init__(self, model: HfTrainable) -> None:
        self.model, self.max_tokens = model, model.max_tokens

    def prefill(self, prompts: Sequence[list[int]], columns: int) -> Tensor:
        """Start a batch; return next-token logits [B,V]."""
        from transformers import DynamicCache

        width, device = max(map(len, prompts)), self.model.head.weight.device
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        self.mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], self.mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
        self.mask, self.cache = self.mask.to(device), DynamicCache(config=self.model.module.config)
        self.next = self.mask.sum(1)
        return self._logits(ids.to(device), (self.mask.cumsum(1) - 1).clamp(min=0))

    def advance(self, tokens_B: Tensor) -> Tensor:
        """Append one token per row; return next-token logits [B,V]."""
        # rows that have ended run on until they are dropped; their position stays inside the model's range
        positions = self.next.clamp(max=self.max_tokens - 1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens_B), 1)], 1)
        self.next = positions + 1
        return self._logits(tokens_B[:, None], positions[:, None])

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.model.module.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        return self.model.head(output.last_hidden_state[:, -1])

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.next = self.mask[rows], self.next[rows]


class HfBackend(LocalBackend):
    """A local Hugging Face folder behind the Backend protocol."""

    @classmethod
    def open(cls, folder: Path, resources: Resources) -> HfBackend:
        """Load model and tokenizer of a local folder."""
        prepare_process(resources)
        tokenizer = Tokenizer.load(folder)
        model = HfTrainable.open(folder, tokenizer, resources.device)
        return cls(model, HfDecoder(model), tokenizer, resources)
