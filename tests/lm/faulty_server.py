"""A real HTTP server on this machine that speaks the chat-completions protocol and misbehaves as told.

`script` maps the text of a request's last message to the faults of its first tries, in order; after those it answers. What it saw and
what it finished sending is kept for tests to look at. With `forward` it stands before another server and passes its replies on.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FaultyServer:
    """Context manager; `url` is its base address."""

    def __init__(self, script: dict[str, list[str]] | None = None, answer: Callable[[str], str] = lambda text: f"reply to {text}") -> None:
        self.script, self.answer = dict(script or {}), answer
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []  # (text, body, headers)
        self.times: list[float] = []
        self.finished: list[str] = []
        self.delay_s = 0.0
        self.forward = ""
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.hanging = threading.Event()
        self.ended = threading.Event()

    def __enter__(self) -> FaultyServer:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802 (http.server's name)
                owner.serve(self)

            def log_message(self, *args: Any) -> None:
                """Print nothing."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients of these tests hang up and are killed."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.lock:
            self.seen.append((text, body, dict(handler.headers)))
            self.times.append(time.monotonic())
            faults = self.script.get(text) or self.script.get("*") or []
            fault = faults.pop(0) if faults else ""
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        handler.close_connection = True
        try:
            if self.delay_s:
                self.ended.wait(self.delay_s)
            self.misbehave(handler, fault, text, body)
        finally:
            with self.lock:
                self.at_once -= 1

    def whole(self, text: str, body: dict[str, Any]) -> bytes:
        if self.forward:
            data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.forward}/chat/completions", data, headers)
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": self.answer(text)}, "finish_reason": "stop"}],
                           "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()  # fmt: skip

    def misbehave(self, handler: BaseHTTPRequestHandler, fault: str, text: str, body: dict[str, Any]) -> None:
        whole = self.whole(text, body)
        if fault.isdigit() or fault.startswith("429"):
            status, _, wait = fault.partition(" ")
            error = json.dumps({"error": {"message": f"sorry, {handler.headers.get('Authorization', 'nobody')}"}}).encode()
            send(handler, int(status), error, {"Retry-After": wait} if wait else {})
        elif fault == "hang":
            self.hanging.set()
            self.ended.wait(30)
        elif fault == "drip":  # a byte now and then: no single read ever times out
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(whole)))
            handler.end_headers()
            for byte in whole:
                handler.wfile.write(bytes([byte]))
                if self.ended.wait(0.1):
                    return
        elif fault == "cut":
            send(handler, 200, whole[: len(whole) // 2], {}, length=len(whole))
        elif fault == "cut chunks":
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"10\r\n" + whole[:16] + b"\r\n")
        elif fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        elif fault == "nothing":
            handler.connection.close()
        elif fault == "not json":
            send(handler, 200, whole[:-7], {})
        elif fault == "html":
            send(handler, 200, b"<html>gateway</html>", {})
        elif fault == "no choices":
            send(handler, 200, b'{"choices": []}', {})
        elif fault == "null":
            send(handler, 200, b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}', {})
        elif fault == "redirect":
            send(handler, 307, b"", {"Location": "http://127.0.0.1:9/v1"})
        else:
            send(handler, 200, whole, {})
            with self.lock:
                self.finished.append(text)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
    """Send one response; `length` lies about the body's length."""
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(length or len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()
