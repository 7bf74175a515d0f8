"""Chat templates of brought tokenizers: the ids of transformers, exact spans and loss, prompts that agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from leaven.core.types import Example, Segment, Turn
from leaven.data.formats import FORMATS, prompt_of
from leaven.data.tokenizer import Encoded, Tokenizer
from leaven.errors import DataError

CHATML = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}\n"
    "  {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{% if loop.first and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% endif %}{% else %}{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}{% endif %}"
    "{% endfor %}"
)
THINKING = (  # reasoning is stripped from a reply
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
KINDS: dict[str, dict[str, Any]] = {
    "chatml": {"template": CHATML, "end": "<|im_end|>", "after": "\n", "lead": "",
               "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "config": {"eos_token": "<|im_end|>"}},
    "llama3": {"template": LLAMA3, "end": "<|eot_id|>", "after": "", "lead": "",
               "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                           "<|eot_id|>"],
               "config": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
               "generation": ["<|end_of_text|>", "<|eot_id|>"]},
    "mistral": {"template": MISTRAL, "end": "</s>", "after": "", "lead": " ",
                "special": ["<s>", "</s>", "[INST]", "[/INST]"], "config": {"bos_token": "<s>", "eos_token": "</s>"}},
}
TEXTS = ["Hello there, how are you?", "hello hello\n\nworld  world", " You are helpful.\n\nuser assistant system\n",
         "\n\n", "\n\n\n", "  ", "    ", "\n  \n"]
# how Llama 3 and Qwen 2 cut text: line ends stay together, so a prompt's last token does not depend on what follows
PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def make(folder: Path, kind: str, as_file: bool = False, **changes: Any) -> Path:
    """Write a small byte-level BPE tokenizer with merges, special tokens and a chat template."""
    made = {**KINDS[kind], **changes}
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library.train_from_iterator(TEXTS * 9, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet,
                                                              show_progress=False))
    library.add_special_tokens(made["special"])
    library.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **made["config"]}
    if as_file:
        (folder / "chat_template.jinja").write_text(made["template"])
    elif made["template"]:
        config["chat_template"] = made["template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if "generation" in made:
        ids = [library.token_to_id(t) for t in made["generation"]]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return folder


@pytest.fixture(scope="module", params=sorted(KINDS))
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer, Any]:
    transformers = pytest.importorskip("transformers")
    folder = make(tmp_path_factory.mktemp(request.param), request.param, as_file=request.param == "llama3")
    return request.param, Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)


def theirs(tokenizer: Any, turns: list[tuple[str, str]], generate: bool = False) -> list[int]:
    messages = [{"role": role, "content": content} for role, content in turns]
    return list(tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=generate,
                                              return_dict=False))


def chat(turns: list[tuple[str, str]]) -> list[Segment]:
    made = tuple(Turn(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    return FORMATS.get("chat")(Example(id="c", source="s", turns=made))


CONVERSATIONS = {
    "one": [("user", "hello world"), ("assistant", "Hello there")],
    "system": [("system", "You are helpful."), ("user", "how are you?"), ("assistant", "hello")],
    "many": [("user", "Hello"), ("assistant", "hello there"), ("user", "how?\n\nworld"), ("assistant", "a b\n  c é")],
    "all": [("system", "S s"), ("user", " x"), ("assistant", "y"), ("user", "z\n"), ("assistant", "hello  hello"),
            ("user", "u"), ("assistant", "v")],
}


@pytest.mark.parametrize("name", sorted(CONVERSATIONS))
def test_conversations_and_prompts_have_the_ids_of_transformers(name: str, brought: tuple[str, Tokenizer, Any]) -> None:
    kind, ours, hugging = brought
    turns = CONVERSATIONS[name]
    segments = chat(turns)
    encoded = ours.encode_segments(segments)
    assert encoded.ids.tolist() == theirs(hugging, turns)
    for i, (role, _) in enumerate(turns):
        if role == "assistant":
            marker = next(n for n, s in enumerate(segments) if s.text == "<|assistant|>" and s.turn == i)
            prompt = ours.encode_segments(segments[:marker + 1]).ids.tolist()
            assert prompt == theirs(hugging, turns[:i], generate=True) == encoded.ids[:len(prompt)].tolist()
    assert ours.encode_segments(prompt_of(segments)).ids.tolist() == encoded.ids[:first(encoded)].tolist()


def first(encoded: Encoded) -> int:
    return int(np.flatnonzero(encoded.learn > 0)[0])


@pytest.mark.parametrize("name", sorted(CONVERSATIONS))
def test_learned_tokens_are_replies_up_to_their_end_token(name: str, brought: tuple[str, Tokenizer, Any]) -> None:
    kind, ours, _ = brought
    turns, made = CONVERSATIONS[name], KINDS[kind]
    segments = chat(turns)
    encoded = ours.encode_segments(segments)
    expected = "".join(f"{made['lead']}{c}{made['end']}" for r, c in turns if r == "assistant")
    assert ours.decode(encoded.ids[encoded.learn > 0], special="keep") == expected
    assert (np.diff(encoded.segment) >= 0).all()
    tail = ours.decode(encoded.ids[np.flatnonzero(encoded.learn > 0)[-1] + 1:], special="keep")
    assert tail == made["after"]
    for number, segment in enumerate(segments):
        if segment.learn > 0 and segment.kind != "template":
            text = ours.decode(encoded.ids[encoded.segment == number], special="keep")
            assert text.removeprefix(made["lead"]) == segment.text
    ends = [n for n, s in enumerate(segments) if s.text == "<|end|>" and s.learn > 0]
    for end in ends:
        mine = encoded.ids[(encoded.segment == end) & (encoded.learn > 0)]
        assert mine.tolist() == [ours.end_id]
    assert ours.end_id == ours.id_of(made["end"]) == ours.id_of("<|end|>")


SOLVED = Example(id="e", source="s", question="hello?", thought="You are.\nSo hello.", code="x = 1\n", answer="1")


def test_both_orders_keep_their_parts_and_tokens(brought: tuple[str, Tokenizer, Any]) -> None:
    kind, ours, hugging = brought
    made, counted = KINDS[kind], {}
    for name in ("thought_code", "code_thought"):
        segments = FORMATS.get(name)(SOLVED, (SOLVED,))
        encoded = ours.encode_segments(segments)
        prompt = ours.encode_segments(prompt_of(segments)).ids
        assert prompt.tolist() == encoded.ids[:first(encoded)].tolist()
        assert (encoded.learn[len(prompt):] == 0).sum() == len(ours.encode(made["after"]))
        for number, segment in enumerate(segments):
            if segment.kind in ("thought", "code"):
                assert encoded.ids[encoded.segment == number].tolist() == ours.encode(segment.text)
        counted[name] = sorted(encoded.ids.tolist())
        single = FORMATS.get(name)(SOLVED)
        question = [("user", SOLVED.question)]
        assert ours.encode_segments(prompt_of(single)).ids.tolist() == theirs(hugging, question, generate=True)
    if kind != "llama3":  # it trims the line end of a reply, which the two orders write in different tokens
        assert counted["thought_code"] == counted["code_thought"]


def test_white_space_that_the_template_trims_is_trimmed_in_the_turn(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = make(tmp_path, "llama3")
    ours, hugging = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    turns = [("user", "  hello\n"), ("assistant", "\nworld \n\n")]
    encoded = ours.encode_segments(chat(turns))
    assert encoded.ids.tolist() == theirs(hugging, turns)
    assert ours.decode(encoded.ids[encoded.learn > 0], special="keep") == "world<|eot_id|>"
    unfinished = ours.encode_segments([*prompt_of(chat(turns)), Segment(kind="answer", text="world\n", learn=1.0)])
    assert ours.decode(unfinished.ids[unfinished.learn > 0]) == "world\n"


def test_scoring_goes_on_where_the_prompt_ends(brought: tuple[str, Tokenizer, Any]) -> None:
    kind, ours, _ = brought
    segments = FORMATS.get("answer_only")(SOLVED)
    prompt = prompt_of(segments)
    both = ours.encode_segments([*prompt, Segment(kind="answer", text="hello", learn=0.0)])
    begin = int((both.segment < len(prompt)).sum())
    assert both.ids[:begin].tolist() == ours.encode_segments(prompt).ids.tolist()
    assert ours.decode(both.ids[begin:], special="keep") == KINDS[kind]["lead"] + "hello"


PROVOKING = ["<|im_start|>", "<|im_end|>", "[INST]", "</s>", "<|eot_id|>", " ", "\n", "hello", "<|end|>", "<|user|>",
             "é", "{{ bos_token }}"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(st.sampled_from(PROVOKING), min_size=1, max_size=6).map("".join))
def test_contents_never_become_special(brought: tuple[str, Tokenizer, Any], text: str) -> None:
    kind, ours, hugging = brought
    special = set(hugging.all_special_ids) | {ours.id_of(t) for t in KINDS[kind]["special"]}
    plain = ours.encode_segments(chat([("user", "x"), ("assistant", "y")]))
    encoded = ours.encode_segments(chat([("user", text), ("assistant", text)]))
    count = [sum(i in special for i in e.ids.tolist()) for e in (plain, encoded)]
    assert count[0] == count[1]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(st.text(st.sampled_from("helo wrd\n  é<|>你"), max_size=12), min_size=2, max_size=6))
def test_any_conversation_has_the_ids_of_transformers(brought: tuple[str, Tokenizer, Any], contents: list[str]) -> None:
    kind, ours, hugging = brought
    # a reply is never one token with the generation prompt before it, so it starts without white space here
    pairs = zip(contents[::2], contents[1::2], strict=False)
    turns = [turn for ask, reply in pairs for turn in (("user", ask), ("assistant", reply.lstrip()))]
    encoded = ours.encode_segments(chat(turns))
    assert encoded.ids.tolist() == theirs(hugging, turns)


def test_documents_and_text_templates_are_not_rendered(brought: tuple[str, Tokenizer, Any]) -> None:
    _, ours, _ = brought
    encoded = ours.encode_segments(FORMATS.get("document")(Example(id="d", source="s", text="hello")))
    assert encoded.ids.tolist() == [*ours.encode("hello"), ours.end_id]
    segments = FORMATS.get("alpaca")(SOLVED)
    lists = [segments, FORMATS.get("code_only")(SOLVED), segments]
    for one, many in zip([ours.encode_segments(x) for x in lists], ours.encode_many(lists), strict=True):
        assert (one.ids == many.ids).all() and (one.learn == many.learn).all() and (one.segment == many.segment).all()
    assert ours.decode(ours.encode_segments(segments[:-1]).ids) == "".join(s.text for s in segments[:-1])


def test_a_template_that_changes_contents_is_refused(tmp_path: Path) -> None:
    ours = Tokenizer.load(make(tmp_path, "chatml", template=THINKING))
    ours.encode_segments(chat([("user", "hello"), ("assistant", "world")]))
    with pytest.raises(DataError, match=r"turn 1 \(assistant\).*'world.*where '<think>"):
        ours.encode_segments(chat([("user", "hello"), ("assistant", "<think>hm</think>world")]))


LAST_THINKS = "('<think></think>' if m.role == 'assistant' and loop.last else '') + "
HISTORY = CHATML.replace("m.content +", f"{LAST_THINKS}m.content +")


def test_a_template_that_rewrites_earlier_turns_is_refused_where_they_are_learned(tmp_path: Path) -> None:
    ours = Tokenizer.load(make(tmp_path, "chatml", template=HISTORY))
    one = ours.encode_segments(chat(CONVERSATIONS["one"]))
    assert ours.decode(one.ids[one.learn > 0]).startswith("<think></think>Hello")
    with pytest.raises(DataError, match=r"turn 1 \(assistant\).*learn only the last turn"):
        ours.encode_segments(chat(CONVERSATIONS["many"]))
    segments = FORMATS.get("thought_code")(SOLVED, (SOLVED,))  # earlier turns are context
    encoded = ours.encode_segments(segments)
    assert ours.encode_segments(prompt_of(segments)).ids.tolist() == encoded.ids[:first(encoded)].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"eos_token": "<|endoftext|>"}}, "'<|im_end|>'.*declares only '<|endoftext|>'.*eos_token_id"),
        ({"template": CHATML.replace("<|im_end|>\n' }}\n{%- endfor", "\n' }}\n{%- endfor")}, "special token that ends"),
        ({"template": "{% if %}"}, "chat template in Jinja"),
        ({"template": "{{ raise_exception('no thanks') }}"}, "refuses.*no thanks"),
        ({"template": CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")}, "generation prompt"),
        ({"template": CHATML.replace("messages %}", "messages if m.role != 'user' %}")}, "turn 0 .user.*0 times"),
    ],
)
def test_templates_that_cannot_be_trained_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    message = message.replace("|", r"\|")
    with pytest.raises(DataError, match=message):
        Tokenizer.load(make(tmp_path, "chatml", **changes)).encode_segments(chat(CONVERSATIONS["one"]))


def test_a_system_turn_that_the_template_refuses_names_the_roles(tmp_path: Path) -> None:
    ours = Tokenizer.load(make(tmp_path, "mistral"))
    with pytest.raises(DataError, match="user, user.*roles must alternate"):
        ours.encode_segments(chat([("user", "a"), ("user", "b"), ("assistant", "c")]))


def test_text_outside_turns_is_refused(tmp_path: Path) -> None:
    ours = Tokenizer.load(make(tmp_path, "chatml"))
    with pytest.raises(DataError, match="outside"):
        ours.encode_segments([Segment(kind="text", text="before"), *chat(CONVERSATIONS["one"])])


def test_without_a_template_markers_are_spelled_out(tmp_path: Path) -> None:
    ours = Tokenizer.load(make(tmp_path, "chatml", template=""))
    encoded = ours.encode_segments(chat(CONVERSATIONS["one"]))
    assert ours.decode(encoded.ids, special="keep") == (
        "<|user|>hello world<|im_end|><|assistant|>Hello there<|im_end|>")


LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("mode", ["prepend", "first", "always", "never"])
def test_tokenizers_that_put_a_space_before_a_text(mode: str, tmp_path: Path) -> None:
    """Like those converted from SentencePiece: transformers' ids in dialogues, no spaces added between segments."""
    transformers = pytest.importorskip("transformers")
    learner = Library(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    learner.train_from_iterator(["hello world [INST] [/INST] step\nThen so."] * 9, trainers.BpeTrainer(
        vocab_size=200, show_progress=False, special_tokens=special))
    library = Library.from_str(json.dumps({**json.loads(learner.to_str()), "pre_tokenizer": None}))
    if mode == "prepend":
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=mode)
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    folder = make(tmp_path, "mistral", template=LLAMA2)
    library.save(str(folder / "tokenizer.json"))
    ours, hugging = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    turns = [("user", "hello"), ("assistant", "so hello"), ("user", "Then"), ("assistant", "world")]
    encoded = ours.encode_segments(chat(turns))
    assert encoded.ids.tolist() == theirs(hugging, turns)
    assert ours.encode_segments(prompt_of(chat(turns))).ids.tolist() == theirs(hugging, turns[:1], generate=True)
    pieces = [Segment(kind="text", text=t) for t in ("step\n", "Then so", ".")]
    assert ours.decode(ours.encode_segments(pieces).ids) == "step\nThen so."
    assert ours.encode("hello world") == hugging.encode("hello world", add_special_tokens=False)
    assert ours.encode_segments(pieces[:1]).ids.tolist() == ours.encode("step\n")
