"""A tokenizer folder -> what its files declare: special ids, end tokens, chat template, spaces put before a text.

Brought folders (Hugging Face) spread this over tokenizer_config.json, special_tokens_map.json, generation_config.json,
config.json and chat_template.jinja; the first that names a token wins, and all ids that end a sequence are kept.
Not covered: encoding (tokenizer.py), rendering (chat_template.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tokenizers

from leaven.errors import DataError

if TYPE_CHECKING:
    from leaven.data.chat_template import ChatTemplate

PAD, END = "<|pad|>", "<|end|>"
SPECIALS = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
_NO_PREFIX = {"prepend_scheme": "never", "add_prefix_space": False}


def quiet(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Switch off truncation and padding that a brought tokenizer.json may carry: lengths are decided in tokenise.py."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def without_prefix(text: str) -> str | None:
    """Return a tokenizer.json that puts no space before a text; None when this one puts none."""
    if not re.search(r'"Prepend"|"prepend_scheme"|"add_prefix_space"\s*:\s*true', text):
        return None
    found = json.loads(tokenizers.Tokenizer.from_str(text).to_str())  # one canonical form of what the library reads
    before = {part: found[part] for part in ("normalizer", "pre_tokenizer")}
    after = {part: next(iter(_bare([value])), None) for part, value in before.items()}
    return json.dumps(found | after) if before != after else None


def _bare(node: Any) -> Any:
    if isinstance(node, list):
        return [_bare(n) for n in node if not (isinstance(n, dict) and n.get("type") == "Prepend")]
    return {k: _NO_PREFIX.get(k, _bare(v)) for k, v in node.items()} if isinstance(node, dict) else node


def special_pattern(tokenizer: tokenizers.Tokenizer) -> tuple[dict[str, int], re.Pattern[str]]:
    """Return the special tokens by text, and a pattern for them with the white space that some of them swallow."""
    added = {i: t for i, t in tokenizer.get_added_tokens_decoder().items() if t.special and t.content.strip()}
    longest_first = sorted(added.values(), key=lambda t: -len(t.content))
    space = r"\s*"
    pattern = "|".join(f"{space if t.lstrip else ''}{re.escape(t.content)}{space if t.rstrip else ''}"
                       for t in longest_first)
    return {t.content.strip(): i for i, t in added.items()}, re.compile(pattern or r"(?!)")


def chat_template_of(folder: Path, loaded: tokenizers.Tokenizer) -> ChatTemplate | None:
    """Return the folder's chat template; None when it has none, or has all of leaven's own markers."""
    if all(loaded.token_to_id(name) is not None for name in SPECIALS):
        return None
    config = _read_json(folder / "tokenizer_config.json")
    if not (folder / "chat_template.jinja").is_file() and not config.get("chat_template"):
        return None
    from leaven.data import chat_template  # brings jinja2, which trained tokenizers never need

    source = chat_template.find_source(folder, config)
    if source is None:
        return None
    named = {**_read_json(folder / "special_tokens_map.json"), **config}
    texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in named.items() if k.endswith("_token")}
    special = [t.content for t in loaded.get_added_tokens_decoder().values() if t.special]
    ends = [loaded.id_to_token(i) for i in declared_all(folder, loaded, "eos")] or [END]
    variables = {k: v for k, v in texts.items() if isinstance(v, str)}
    return chat_template.ChatTemplate(folder, source, variables, special, ends)


def special_ids_of(folder: Path, loaded: tokenizers.Tokenizer) -> tuple[dict[str, int], int | None]:
    """Return marker -> id and the bos id, from the tokenizer itself or from the configuration files beside it."""
    end = _declared(folder, loaded, "eos")
    end = loaded.token_to_id(END) if end is None else end
    if end is None:
        raise DataError(f"{folder}: expected an end-of-sequence token, found no eos_token in tokenizer_config.json or "
                        "special_tokens_map.json and no eos_token_id in generation_config.json or config.json. "
                        "Name one of the tokenizer's tokens as eos_token there")
    pad = _declared(folder, loaded, "pad")
    pad = loaded.token_to_id(PAD) if pad is None else pad
    ids = {name: found for name in SPECIALS[2:] if (found := loaded.token_to_id(name)) is not None}
    return {PAD: end if pad is None else pad, END: end, **ids}, _declared(folder, loaded, "bos")


def _declared(folder: Path, loaded: tokenizers.Tokenizer, which: Literal["eos", "pad", "bos"]) -> int | None:
    """Return the id of the eos, pad or bos token that the folder's configuration files declare first."""
    return next(iter(declared_all(folder, loaded, which)), None)


def declared_all(folder: Path, loaded: tokenizers.Tokenizer, which: Literal["eos", "pad", "bos"]) -> list[int]:
    """Return every id that the configuration files declare; a model may have several that end a sequence."""
    ids: list[int] = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read_json(folder / name).get(f"{which}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and (found := loaded.token_to_id(token)) is not None:
            ids.append(found)
    for name in ("generation_config.json", "config.json"):
        declared = _read_json(folder / name).get(f"{which}_token_id")
        for found in declared if isinstance(declared, list) else [declared]:
            if isinstance(found, int) and loaded.id_to_token(found) is not None:
                ids.append(found)
    return list(dict.fromkeys(ids))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found: {error}") from error
    return value if isinstance(value, dict) else {}
