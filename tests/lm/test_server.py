"""The client against a real HTTP server that misbehaves: what is tried again, what stops, what is kept, what is never shown."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaven.core.step import StepContext
from leaven.data.teacher import Ask, Reply
from leaven.errors import BackendError, Interrupted
from leaven.lm.server import Server, _retry_after

KEY = "sk-test-2f9c1d7e55aa"


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


FaultyServer = _load("faulty_server").FaultyServer


def asks(*texts: str) -> list[Ask]:
    return [Ask("s", t, 0, t, ({"role": "user", "content": t},), {"model": "m", "temperature": 0.0}, f"key-{t}") for t in texts]


def client(server: Any, **options: Any) -> Server:
    return Server(server.url, **{"backoff_s": 0.01, "timeout_s": 5.0, "key": KEY, "concurrency": 2, **options})


def ask_all(teacher: Server, wanted: list[Ask], ctx: StepContext | None = None) -> tuple[dict[str, str], dict[str, str]]:
    kept: dict[str, str] = {}

    def keep(reply: Reply) -> None:
        assert reply.seed not in kept
        kept[reply.seed] = reply.text

    return kept, teacher.answer(wanted, keep, ctx or StepContext())


@pytest.fixture
def server() -> Iterator[Any]:
    with FaultyServer() as running:
        yield running


MENDED = ("429", "429 0.05", "408", "500", "502", "503", "504", "529", "hang", "drip", "cut", "cut chunks", "reset", "nothing",
          "not json", "html", "no choices", "null")  # fmt: skip


@pytest.mark.parametrize("fault", MENDED)
def test_a_fault_that_passes_is_tried_again_and_nothing_is_lost(server: Any, fault: str) -> None:
    server.script = {"b": [fault, fault]}
    kept, unanswered = ask_all(client(server, timeout_s=0.5), asks("a", "b", "c"))
    assert kept == {t: f"reply to {t}" for t in "abc"} and not unanswered
    assert [t for t, _, _ in server.seen].count("b") == 3


def test_all_faults_at_once_on_many_requests(server: Any) -> None:
    names = [f"q{i:03d}" for i in range(120)]
    server.script = {n: [MENDED[(i + j) % len(MENDED)] for j in range(i % 4)] for i, n in enumerate(names)}
    kept, unanswered = ask_all(client(server, timeout_s=0.4, concurrency=12, give_up_after=1000), asks(*names))
    assert kept == {n: f"reply to {n}" for n in names} and not unanswered


def test_as_many_requests_at_a_time_as_asked_for(server: Any) -> None:
    server.delay_s = 0.1
    ask_all(client(server, concurrency=5), asks(*map(str, range(20))))
    assert 2 <= server.most_at_once <= 5


def test_a_request_that_stays_without_an_answer_leaves_the_others_alone(server: Any) -> None:
    server.script = {"b": ["500"] * 9, "c": ["422"]}
    teacher = client(server, attempts=3)
    kept, unanswered = ask_all(teacher, asks("a", "b", "c", "d"))
    assert sorted(kept) == ["a", "d"]
    assert unanswered["key-b"] == "500 after 3 tries" and teacher.retried["500"] == 2
    assert unanswered["key-c"].startswith("refused by the server: 422 sorry")  # asking again would bring the same


@pytest.mark.parametrize(("fault", "word"), [("401", "key"), ("403", "key"), ("404", "model"), ("redirect", "redirect")])
def test_what_will_never_work_stops_at_once_with_the_servers_words(server: Any, fault: str, word: str) -> None:
    server.script = {"b": [fault] * 9}
    kept: dict[str, str] = {}
    with pytest.raises(BackendError, match=word) as caught:
        client(server, concurrency=1).answer(asks("a", "b", *map(str, range(50))), lambda r: kept.update({r.seed: r.text}), StepContext())
    assert KEY not in str(caught.value) and kept == {"a": "reply to a"} and len(server.seen) == 2


def test_a_dead_server_is_given_up_and_a_wrong_address_is_refused(server: Any) -> None:
    server.script = {"*": ["503"] * 1000}
    with pytest.raises(BackendError, match="3 requests in a row"):
        ask_all(client(server, attempts=2, give_up_after=3), asks(*map(str, range(100))))
    assert len(server.seen) <= 2 * 4 + 2
    with pytest.raises(BackendError, match="no connection after 2 tries"):
        ask_all(Server("http://127.0.0.1:9/v1", backoff_s=0.01, attempts=2, give_up_after=2), asks(*"abcd"))
    for url in ("localhost:8000", "ftp://x", "http://user:pw@host/v1"):
        with pytest.raises(BackendError, match="teacher.server"):
            Server(url)


def test_the_rate_limit_spaces_requests_and_the_key_goes_into_one_header(server: Any) -> None:
    ask_all(client(server, requests_per_minute=1200, concurrency=8), asks(*"abcdef"))
    gaps = [b - a for a, b in zip(sorted(server.times), sorted(server.times)[1:], strict=False)]
    assert len(gaps) == 5 and sum(gaps) >= 0.2  # 5 x 50 ms, less what the first ones waited in the network
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, _, headers in server.seen)
    assert KEY not in repr(client(server)) and all(KEY not in str(body) for _, body, _ in server.seen)
    ask_all(client(server, key=""), asks("g"))
    assert "Authorization" not in server.seen[-1][2]
    whole = Server(f"{server.url}/chat/completions/", f" {KEY}\n")  # what people paste
    assert ask_all(whole, asks("h"))[0] == {"h": "reply to h"} and server.seen[-1][2]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(BackendError, match="teacher.key_env") as caught:
        Server(server.url, f"{KEY}\nX-Header: 1")
    assert KEY not in str(caught.value)


def test_a_limited_rate_pauses_every_thread(server: Any) -> None:
    server.script = {"a": ["429 0.6"]}
    ask_all(client(server, concurrency=1), asks("a", "b"))
    assert [t for t, _, _ in server.seen] == ["a", "a", "b"] and server.times[1] - server.times[0] >= 0.6


def test_a_stop_keeps_what_is_finished_and_waits_for_what_is_under_way(server: Any) -> None:
    server.delay_s = 0.3
    stop = threading.Event()
    kept: dict[str, str] = {}

    def keep(reply: Reply) -> None:
        kept[reply.seed] = reply.text
        stop.set()

    with pytest.raises(Interrupted, match="run the same command"):
        client(server, concurrency=3).answer(asks(*map(str, range(60))), keep, StepContext(stop=stop.is_set))
    assert set(kept) == set(server.finished) and 1 <= len(kept) <= 9


def test_a_stop_does_not_wait_for_ever(server: Any) -> None:
    server.script = {"*": ["hang"] * 100}
    with pytest.raises(Interrupted):
        client(server, grace_s=0.2, timeout_s=60).answer(asks("a"), lambda r: None, StepContext(stop=server.hanging.is_set))


def test_an_error_while_keeping_ends_the_round(server: Any) -> None:
    def full(reply: Reply) -> None:
        raise OSError(28, "No space left on device", "replies.jsonl")

    with pytest.raises(OSError, match="No space"):
        client(server).answer(asks(*"abcdefgh"), full, StepContext())


@pytest.mark.parametrize(("header", "seconds"), [(None, 0), ("3", 3), ("2.5", 2.5), ("-1", 0), ("nan", 0), ("soon", 0), ("99999", 600),
                                                 ("Wed, 21 Oct 2015 07:28:00 GMT", 0)])  # fmt: skip
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float) -> None:
    assert _retry_after(header) == seconds
