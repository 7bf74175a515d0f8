"""Model folders on disk: weights, configuration, tokenizer and optimiser state; a kill leaves the old or the new.

A folder of the embedded model is a LlamaForCausalLM folder (config.json, model.safetensors, tokenizer files), so any
Hugging Face tool loads it. `state.safetensors` beside it holds what training needs to go on: fp32 master weights and
both AdamW moments as flat vectors, with the step in its metadata.
Not covered: Hugging Face architectures (hf.py saves those with save_pretrained).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leaven.errors import BackendError
from leaven.lm.tiny_model import TinyConfig, TinyModel, from_llama_weights, llama_weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON through a temporary name."""
    partial = path.with_name(f"_{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file through a temporary name, flushed to disk before it takes its place."""
    partial = path.with_name(f"_{path.name}.partial")
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        partial,
        metadata=dict(metadata or {"format": "pt"}),
    )
    with partial.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise BackendError saying what was expected when it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{path}: expected a JSON file of a model folder, {type(error).__name__}: {error}"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raise BackendError when it is absent or damaged."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own bare types
        raise BackendError(
            f"{path}: expected a safetensors file, {type(error).__name__}: {error}. "
            "Delete the folder it lies in and run again"
        ) from error


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer files of `source` into a model folder."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def save_tiny(
    folder: Path, model: TinyModel, weights: Mapping[str, Tensor], end_id: int | None = None, pad_id: int | None = None
) -> None:
    """Write both configurations and model.safetensors; `weights` are fp32 under the model's own names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", llama_weights(model.config, weights))
    write_json(folder / "generation_config.json", {"eos_token_id": end_id, "pad_token_id": pad_id, "do_sample": False})
    write_json(folder / "config.json", model.config.hf_config(end_id, pad_id) | {"leaven": "tiny"})


def is_tiny(folder: Path) -> bool:
    """Return whether a folder was written by `save_tiny`."""
    return (folder / "config.json").is_file() and read_json(folder / "config.json").get("leaven") == "tiny"


def load_tiny(folder: Path, device: str = "cpu") -> TinyModel:
    """Load the embedded model of a folder in fp32.

    Raises:
        BackendError: files are missing or damaged, or the weights do not fit the configuration.
    """
    config = TinyConfig.from_hf(read_json(folder / "config.json"))
    model = TinyModel(config)
    try:
        model.load_state_dict(from_llama_weights(config, read_tensors(folder / "model.safetensors")))
    except (KeyError, RuntimeError) as error:
        raise BackendError(f"{folder}: expected the weights of {config}, found: {error}") from error
    return model.to(device)


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write optimiser state and its facts as one file, so that both are of the same step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "state.safetensors", tensors, {"facts": json.dumps(facts, sort_keys=True)})


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote; raise BackendError when it is missing or damaged."""
    from safetensors import safe_open

    path = folder / "state.safetensors"
    if not path.is_file():
        raise BackendError(
            f"{path}: expected optimiser state to continue from, found none; only folders written by training hold it"
        )
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as handle:
        facts = json.loads((handle.metadata() or {}).get("facts", "{}"))
    return tensors, facts


def describe(model: torch.nn.Module) -> str:
    """Return the parameter count in words, e.g. "0.16M parameters"."""
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters"
