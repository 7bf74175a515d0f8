"""The `model`, `tokenizer` and `train` sections: what is trained and with which optimiser settings (hashed)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from leaven.spec.data import CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model every condition starts from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    kind: Literal["tiny", "hf"] = "tiny"
    """tiny: the embedded Llama-architecture model from scratch; hf: a local Hugging Face folder."""
    folder: str | None = None
    """For kind hf: `model:NAME` under runtime.paths.models, or a path relative to the study file."""
    width: int = 64
    """Hidden size."""
    layers: int = 3
    """Decoder layers."""
    heads: int = 4
    """Attention heads."""
    ffn: int | None = None
    """Feed-forward size; null means the usual 8/3 of the width, rounded up to a multiple of 4. For kind hf, a width, layers,
    heads and ffn given here let `leaven plan` cost a folder that is not there yet; they change nothing else."""
    max_tokens: int = 512
    """Longest sequence."""
    tie: bool = True
    """Share input and output embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSpec:
    """The tokenizer of models trained from scratch; a Hugging Face folder brings its own."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    kind: Literal["word", "bpe"] = "bpe"
    """word: whitespace words of a closed vocabulary; bpe: byte-level BPE with space-run tokens."""
    vocab_size: int = 4096
    """Upper limit of the vocabulary."""
    sources: tuple[str, ...] | None = None
    """Sources it is trained on; null means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """AdamW and its learning-rate schedule."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""
    eps: float = 1e-8
    """AdamW epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay (not on norms and biases)."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Learning rate after warm-up."""
    warmup_steps: int | None = None
    """Linear warm-up in steps."""
    warmup_ratio: float | None = None
    """Linear warm-up as a share of all steps."""
    min_lr: float = 0.0
    """Where cosine and linear end."""
    clip: float = 1.0
    """Global gradient-norm clip; 0 means none."""
    dtype: Literal["fp32", "bf16", "auto"] = "auto"
    """Arithmetic; auto takes fp32 for narrow models on a CPU."""
    checkpoint_every: int | None = None
    """Keep a model every so many steps (checkpoints/step-N beside the final one)."""
    checkpoints: int | None = None
    """Keep this many models evenly spaced over the stage, whatever its length; the last is the final one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Optimiser):
    """Optimiser settings for all stages, with overrides by stage name."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stage name -> settings that differ there."""
