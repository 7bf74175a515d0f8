"""Requests to an OpenAI-compatible server -> replies: concurrent, rate-limited, tried again where that can help.

Standard library only (http.client), one connection per request: a reply takes seconds, a connection milliseconds. What is tried
again: 408, 409, 425, 429, 5xx, timeouts, refused, reset and cut connections, bodies that are no JSON or hold no reply. After 401, 402,
403, 404, 405 or a redirect nothing will ever work: asking stops with the server's own words. Any other 4xx refuses one request. Every
reply goes to `keep` in the thread that received it, before anything else can go wrong. Time and chance (waits) change no answer.
Not covered: streaming, tools, proxies from the environment; what to ask (data/teacher.py).
"""

from __future__ import annotations

import http.client
import json
import queue
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from leaven.core.rng import python_rng
from leaven.core.step import StepContext
from leaven.data.teacher import Ask, Keep, Reply
from leaven.errors import BackendError, Interrupted

AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
HOPELESS = {401: "the key is wrong or missing", 402: "the account has no credit left", 403: "the key may not do this",
            404: "no such address or model", 405: "this address takes no requests of this kind"}  # fmt: skip
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0
LARGEST_REPLY_BYTES = 64 << 20


class _Again(Exception):
    """A failure that another try may mend: (what, seconds the server asks to wait)."""

    def __init__(self, what: str, detail: str = "", wait_s: float = 0.0) -> None:
        super().__init__(detail or what)
        self.what, self.wait_s = what, wait_s


class _Refused(Exception):
    """This request will never be answered, others may be."""


class _Stopped(Exception):
    """Asking is over."""


@dataclass(slots=True)
class Server:
    """A server as a teacher. `url` is its base address (ending in /v1 for most); `key` is sent as a bearer token and shown nowhere.

    A request is tried `attempts` times, each for at most `timeout_s`; the first wait is `backoff_s` and doubles up to a minute.
    Asking stops when `give_up_after` requests in a row stay without an answer. Ctrl-C (or ctx.stop) sends no new requests and waits
    up to `grace_s` for those under way.
    """

    url: str
    key: str = field(default="", repr=False)
    concurrency: int = 4
    requests_per_minute: float = 0.0
    timeout_s: float = 180.0
    attempts: int = 6
    backoff_s: float = 1.0
    give_up_after: int = 8
    grace_s: float = 15.0
    name: str = "server"
    retried: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.url, self.key = self.url.strip().rstrip("/").removesuffix("/chat/completions"), self.key.strip()
        if not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise BackendError("teacher.key_env: expected a key of printable ASCII characters, found others; set the variable anew")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BackendError(
                f"teacher.server: expected an address such as http://localhost:8000/v1, found {self.url!r}; write it with http:// or https://"
            )
        if parts.username or parts.password:
            raise BackendError("teacher.server: expected an address without a name or password; put the key into teacher.key_env")

    def answer(self, asks: Sequence[Ask], keep: Keep, ctx: StepContext) -> dict[str, str]:
        """Ask everything; return the key of each request that stayed without an answer -> why.

        Raises:
            BackendError: asking on is useless; replies so far were kept.
            Interrupted: stopped; replies so far were kept.
        """
        return _Round(self, asks, keep, ctx).run()

    def chat(self, messages: Sequence[Mapping[str, str]], body: Mapping[str, Any]) -> tuple[str, str, int, int]:
        """Send one request once; return text, finish reason, prompt tokens and reply tokens.

        Raises _Again, _Refused or BackendError by what came back.
        """
        status, headers, data = self._post({**body, "messages": list(messages), "stream": False})
        if status in HOPELESS or 300 <= status < 400:
            why = HOPELESS.get(status, f"it redirects to {headers.get('Location', 'another address')}; give that one")
            raise BackendError(f"{self.url}: {status} {self._said(data)}({why}); asking stopped, finished answers are kept")
        if status in AGAIN:
            raise _Again(str(status), f"{status} {self._said(data)}", _retry_after(headers.get("Retry-After")))
        if status >= 400:
            raise _Refused(f"refused by the server: {status} {self._said(data)}".strip())
        return _reply_of(data)

    def _post(self, body: Mapping[str, Any]) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body; raise _Again when none, or not all of it, arrives in time."""
        parts = urlsplit(self.url)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close", "User-Agent": "leaven"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        deadline = time.monotonic() + self.timeout_s
        if parts.scheme == "https":
            link: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=self.timeout_s, context=ssl.create_default_context()
            )
        else:
            link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self.timeout_s)
        try:
            link.request("POST", f"{parts.path}/chat/completions", json.dumps(body).encode(), headers)
            _until(link, deadline)
            response = link.getresponse()
            return response.status, response.headers, _body(link, response, deadline)
        except TimeoutError:
            raise _Again("timeout", f"no complete reply within {self.timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise BackendError(f"{self.url}: its certificate is not accepted ({error.verify_message}); nothing was sent") from None
        except http.client.HTTPException as error:
            raise _Again("cut connection", f"{type(error).__name__}: {error}"[:200]) from None
        except OSError as error:
            raise _Again("no connection", f"{type(error).__name__}: {error}"[:200]) from None
        finally:
            link.close()

    def _said(self, data: bytes) -> str:
        """Return what the server said about an error, the key taken out, followed by a space; "" for nothing."""
        text = data[:4000].decode("utf-8", "replace")
        try:
            value = json.loads(text)
            error = value.get("error", value.get("detail", value.get("message", text)))
            text = error.get("message", str(error)) if isinstance(error, Mapping) else str(error)
        except (ValueError, AttributeError):
            pass
        text = " ".join(text.split())[:300]
        return f"{text.replace(self.key, '***') if self.key else text} " if text else ""


def _until(link: http.client.HTTPConnection, deadline: float) -> None:
    """Let the next read wait until the deadline at most."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    if link.sock is not None:
        link.sock.settimeout(left)


def _body(link: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float) -> bytes:
    """Read a whole body before the deadline, however slowly it drips; raise _Again when it is cut short."""
    length = response.headers.get("Content-Length")
    read = bytearray()
    while True:
        _until(link, deadline)
        piece = response.read1(65536)
        if not piece:
            break
        read += piece
        if len(read) > LARGEST_REPLY_BYTES:
            raise _Again("malformed reply", f"more than {LARGEST_REPLY_BYTES} bytes")
    if length is not None and length.isdigit() and len(read) < int(length):
        raise _Again("cut connection", f"{len(read)} of {length} bytes arrived")
    return bytes(read)


def _reply_of(data: bytes) -> tuple[str, str, int, int]:
    """Return (text, finish, prompt tokens, reply tokens) of a response body; raise _Again when it is none."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        content = choice["message"].get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Again("malformed reply", f"{type(error).__name__} in {data[:120]!r}") from None
    if isinstance(content, list):
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    finish = choice.get("finish_reason")
    if content is None and finish in ("length", "content_filter"):
        content = ""  # nothing was written, on purpose: asking again gives the same
    if not isinstance(content, str):
        raise _Again("malformed reply", f"no text in {data[:120]!r}")
    usage = value.get("usage") if isinstance(value.get("usage"), Mapping) else {}
    counts = [usage.get(n) if isinstance(usage.get(n), int) else 0 for n in ("prompt_tokens", "completion_tokens")]
    return content, str(finish or ""), counts[0], counts[1]


def _retry_after(value: str | None) -> float:
    """Return the seconds a Retry-After header asks for (a number or a date), 0 for none, never more than ten minutes."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if seconds == seconds else 0.0


class _Round:
    """One call of `answer`: threads that take requests from a list, and the loop that watches them."""

    def __init__(self, server: Server, asks: Sequence[Ask], keep: Keep, ctx: StepContext) -> None:
        self.server, self.keep, self.ctx = server, keep, ctx
        self.asks = iter(asks)
        self.total = len(asks)
        self.done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.unanswered: dict[str, str] = {}
        self.answered = self.under_way = self.in_a_row = 0
        self.next_start = self.paused_until = 0.0
        self.failure: BaseException | None = None

    def run(self) -> dict[str, str]:
        threads = [
            threading.Thread(target=self._work, daemon=True, name=f"ask-{i}")
            for i in range(max(1, min(self.server.concurrency, self.total)))
        ]
        self._report()
        for thread in threads:
            thread.start()
        try:
            while self.failure is None and any(t.is_alive() for t in threads):
                self._wait(0.2)
                if self.ctx.stop():
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            self._drain(threads)
            raise Interrupted(
                f"stopped with {self.answered} of {self.total} requests answered now, all of them kept; "
                "run the same command to go on"
            ) from None
        finally:
            self.stop.set()
        if self.failure is not None:
            self._drain(threads)
            raise self.failure
        self._report()
        return self.unanswered

    def _wait(self, seconds: float) -> None:
        try:
            self.done.get(timeout=seconds)
        except queue.Empty:
            return
        self._report()

    def _report(self) -> None:
        notes = [f"{len(self.unanswered)} without an answer"] if self.unanswered else []
        notes += [f"{n} x {what} tried again" for what, n in self.server.retried.most_common(3)]
        self.ctx.progress(self.answered + len(self.unanswered), self.total, "asking" + (f" ({', '.join(notes)})" if notes else ""))

    def _drain(self, threads: Sequence[threading.Thread]) -> None:
        """Send nothing new; wait a while for what is under way (paid for already); another Ctrl-C leaves at once."""
        self.stop.set()
        until = time.monotonic() + self.server.grace_s
        try:
            if self.under_way:
                self.ctx.progress(self.answered, self.total, f"stopping: waiting up to {self.server.grace_s:g} s for {self.under_way} "
                                  "requests under way (Ctrl-C again leaves now)")  # fmt: skip
            while any(t.is_alive() for t in threads) and time.monotonic() < until:
                time.sleep(0.05)
        except KeyboardInterrupt:
            pass

    # -- threads ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self.stop.is_set():
                with self.lock:
                    ask = next(self.asks, None)
                if ask is None:
                    return
                self._one(ask)
                self.done.put(ask.key)
        except _Stopped:
            pass
        except BaseException as error:
            with self.lock:
                self.failure = self.failure or error
            self.stop.set()

    def _one(self, ask: Ask) -> None:
        """Ask until there is a reply, the server refuses, or the tries are used up."""
        why = ""
        for attempt in range(self.server.attempts):
            self._turn()
            with self.lock:
                self.under_way += 1
            try:
                text, finish, asked, answered = self.server.chat(ask.messages, ask.body)
                self._kept(Reply(ask.key, ask.source, ask.seed, ask.sample, text, finish, asked, answered))
                return
            except _Refused as error:
                why = str(error)
                break
            except _Again as error:
                why = f"{error.what} after {attempt + 1} tries"
                if attempt + 1 < self.server.attempts:
                    self._back_off(ask, attempt, error)
            finally:
                with self.lock:
                    self.under_way -= 1
        self._lost(ask, why)

    def _kept(self, reply: Reply) -> None:
        with self.lock:
            self.keep(reply)
            self.answered += 1
            self.in_a_row = 0

    def _lost(self, ask: Ask, why: str) -> None:
        with self.lock:
            self.unanswered[ask.key] = why
            self.in_a_row += 1
            if self.in_a_row >= self.server.give_up_after:
                raise BackendError(
                    f"{self.server.url}: {self.in_a_row} requests in a row stayed without an answer, the last one: {why}; asking stopped. "
                    f"{self.answered} answers of this run are kept: see that the server is well, then run the same command"
                )

    def _back_off(self, ask: Ask, attempt: int, error: _Again) -> None:
        """Wait before the next try; a server that limits its rate pauses all threads."""
        draw = python_rng(0, "backoff", ask.key, attempt).random()
        wait = max(error.wait_s, min(LONGEST_WAIT_S, self.server.backoff_s * 2**attempt) * (0.5 + draw))
        with self.lock:
            self.server.retried[error.what] += 1
            if error.what == "429":
                self.paused_until = max(self.paused_until, time.monotonic() + wait)
        self._sleep(wait)

    def _turn(self) -> None:
        """Wait for this thread's turn under the rate limit and any pause."""
        with self.lock:
            start = max(time.monotonic(), self.next_start, self.paused_until)
            if self.server.requests_per_minute > 0:
                self.next_start = start + 60.0 / self.server.requests_per_minute
        self._sleep(start - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)) or self.stop.is_set():
            raise _Stopped
