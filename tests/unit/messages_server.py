"""A real HTTP server on loopback that speaks the Messages API (streaming) and misbehaves when told to.

    with MessagesServer([Status(529), Says(submit(KERNEL))]) as server:     # replies in the order requests come
        ...  ANTHROPIC_BASE_URL=server.url  ANTHROPIC_API_KEY=KEY  ...
    assert len(server.requests) == 2                                         # bodies of POST /v1/messages, in order

    def author(request):                                                     # or a function from request to reply
        told = results_in(request)                                           # texts of the tool results just sent
        return Says(submit(REPAIRED if any("refuted" in t for t in told) else BROKEN))
    with MessagesServer(author) as server: ...

What can be said: `Says(*blocks, stop=...)` with blocks from `submit(text, change, based_on)`, `text(...)`,
`thinking(...)` or any dict; `Says(..., events=f)` lets `f` rewrite the list of stream events. What can go wrong:
`Status(code, kind, message, headers)`, `Cut(says, after)` (the stream ends early; `clean` closes it properly),
`CutInput(says)` (max_tokens in the middle of the last call's JSON), `Garbled(says)` (an event that is no JSON),
`ErrorEvent(says, kind)` (an error event amid the stream), `Reset()` (connection reset), `Hang()` (not a byte until the
server closes), `Drip()` (a comment now and then, never an event), `Web()` (a page of HTML with status 200).

The server is as strict as the API: a wrong key is 401 (`key` is what it accepts), and 400 is the answer to a
temperature in a version that takes none, to empty text, to roles that do not alternate, to calls without results and to
more than four cache points. It keeps a prompt cache by prefix, and reports what it read and wrote; tokens are
characters by four. `server.counted` holds bodies of /v1/messages/count_tokens; `counts=False` answers them with 404.
`server.headers` are those of `server.requests`. An exhausted script answers 400, so that a test cannot go on unseen.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789"
Event = tuple[str, str]  # name and data


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def thinking(said: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": said, "signature": "c2lnbmVk"}


def submit(kernel: str, change: str = "a change", based_on: str = "") -> dict[str, Any]:
    given = {"text": kernel, "change": change} | ({"based_on": based_on} if based_on else {})
    return {"type": "tool_use", "name": "submit_kernel", "input": given}


@dataclass(frozen=True)
class Says:
    blocks: tuple[dict[str, Any], ...]
    stop: str = ""
    events: Callable[[list[Event]], list[Event]] = list

    def __init__(
        self, *blocks: dict[str, Any], stop: str = "", events: Callable[[list[Event]], list[Event]] = list
    ) -> None:
        object.__setattr__(self, "blocks", blocks)
        calls = any(block["type"] == "tool_use" for block in blocks)
        object.__setattr__(self, "stop", stop or ("tool_use" if calls else "end_turn"))
        object.__setattr__(self, "events", events)


@dataclass(frozen=True)
class Status:
    code: int
    kind: str = "api_error"
    message: str = "on purpose"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    says: Says
    after: int
    clean: bool = False


@dataclass(frozen=True)
class CutInput:
    says: Says


@dataclass(frozen=True)
class Garbled:
    says: Says


@dataclass(frozen=True)
class ErrorEvent:
    says: Says
    kind: str = "overloaded_error"


@dataclass(frozen=True)
class Reset:
    pass


@dataclass(frozen=True)
class Hang:
    pass


@dataclass(frozen=True)
class Drip:
    pass


@dataclass(frozen=True)
class Web:
    pass


Reply = Says | Status | Cut | CutInput | Garbled | ErrorEvent | Reset | Hang | Drip | Web
Script = Sequence[Reply] | Callable[[dict[str, Any]], Reply]


def results_in(request: dict[str, Any]) -> list[str]:
    """Texts of the tool results in the last message: what the author was just told."""
    return [b["content"] for b in request["messages"][-1]["content"] if b["type"] == "tool_result"]


class MessagesServer:
    def __init__(self, script: Script, key: str = KEY, counts: bool = True) -> None:
        self.key, self.counts = key, counts
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.counted: list[dict[str, Any]] = []
        self.closing = threading.Event()
        self._script = script
        self._next = iter(() if callable(script) else script)
        self._lock = threading.Lock()
        self._cache: set[str] = set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.messages = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> MessagesServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            if problem := _problem(body, headers):
                return Status(400, "invalid_request_error", problem)
            if callable(self._script):
                return self._script(body)
            return next(self._next, Status(400, "invalid_request_error", "the script is at its end"))

    def usage(self, body: dict[str, Any]) -> dict[str, int]:
        """What of the prompt the cache had, and what it has now. It looks for what it knows at each cache point and up
        to 20 blocks before it, and keeps what stands before a cache point."""
        prefix = json.dumps(body["tools"])
        prefixes, points = [prefix], []
        for block in [*body["system"], *(b for m in body["messages"] for b in m["content"])]:
            prefix += json.dumps({k: v for k, v in block.items() if k != "cache_control"})
            if "cache_control" in block:
                points.append(len(prefixes))
            prefixes.append(prefix)
        with self._lock:
            near = [prefixes[i] for point in points for i in range(max(0, point - 20), point + 1)]
            read = max((len(p) for p in near if p in self._cache), default=0)
            self._cache.update(prefixes[point] for point in points)
        kept = max((len(prefixes[point]) for point in points), default=0)
        return {
            "input_tokens": (len(prefix) - kept) // 4,
            "cache_read_input_tokens": read // 4,
            "cache_creation_input_tokens": (kept - read) // 4,
            "output_tokens": 1,
        }


def _problem(body: dict[str, Any], headers: dict[str, str]) -> str:
    """What the API would refuse."""
    if "temperature" in body and headers.get("anthropic-version", "") > "2023-06-01":
        return "temperature: Extra inputs are not permitted"
    blocks = [*body["system"], *(b for m in body["messages"] for b in m["content"])]
    if sum("cache_control" in block for block in blocks) > 4:
        return "A maximum of 4 blocks with cache_control may be provided."
    if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
        return "messages: text content blocks must contain non-whitespace text"
    roles = [message["role"] for message in body["messages"]]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)] or roles[-1] != "user":
        return "messages: roles must alternate between user and assistant"
    for message, answer in zip(body["messages"][1::2], body["messages"][2::2], strict=True):
        calls = [b["id"] for b in message["content"] if b["type"] == "tool_use"]
        results = [b["tool_use_id"] for b in answer["content"] if b["type"] == "tool_result"]
        if sorted(calls) != sorted(results):
            return "messages: `tool_use` ids were found without `tool_result` blocks immediately after"
    return "" if body["max_tokens"] > 0 else "max_tokens: must be positive"


def stream_of(says: Says, usage: dict[str, int], number: int) -> list[Event]:
    """The events of a reply, as the API streams them."""
    start = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "scripted", "content": []}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**start, "usage": usage}}, {"type": "ping"}]
    written = 0
    for index, block in enumerate(says.blocks):
        opened, pieces = _pieces(block, f"toolu_{number}_{index}")
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        for delta in pieces:
            written += len(json.dumps(delta))
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": says.stop, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1 + written // 4}})
    events.append({"type": "message_stop"})
    return says.events([(e["type"], json.dumps(e)) for e in events])


def _pieces(block: dict[str, Any], call: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in _split(block["text"])]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": p} for p in _split(block["thinking"])]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]
        case "tool_use":
            given = json.dumps(block["input"])
            opened = {"type": "tool_use", "id": call, "name": block["name"], "input": {}}
            return opened, [{"type": "input_json_delta", "partial_json": p} for p in _split(given)]
        case _:
            return block, []


def _split(said: str) -> list[str]:
    return [said[at : at + 200] for at in range(0, len(said), 200)]


def _cut_input(events: list[Event]) -> list[Event]:
    """The last call's JSON stops in the middle; the message ends with max_tokens."""
    deltas = [i for i, (name, _) in enumerate(events) if name == "content_block_delta"]
    end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 99}}
    kept = [e for i, e in enumerate(events[:-2]) if i != deltas[-1]]
    return [*kept, ("message_delta", json.dumps(end)), events[-1]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        server: MessagesServer = self.server.messages  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        if key != server.key:
            message = f"invalid x-api-key {key}"
            return self._whole(401, {"type": "error", "error": {"type": "authentication_error", "message": message}})
        if self.path.partition("?")[0] == "/v1/messages/count_tokens":
            server.counted.append(body)
            if not server.counts:
                return self._whole(404, {"type": "error", "error": {"type": "not_found_error", "message": "no"}})
            return self._whole(200, {"input_tokens": len(json.dumps(body)) // 4})
        reply = server.reply(body, {name.lower(): value for name, value in self.headers.items()})
        try:
            self._answer(reply, server, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked has gone away, as they may

    def _answer(self, reply: Reply, server: MessagesServer, body: dict[str, Any]) -> None:
        number = len(server.requests)
        match reply:
            case Says():
                self._stream(stream_of(reply, server.usage(body), number))
            case Status(code, kind, message, headers):
                self._whole(code, {"type": "error", "error": {"type": kind, "message": message}}, headers)
            case Cut(says, after, clean):
                self._stream(stream_of(says, server.usage(body), number)[:after], finish=clean)
            case CutInput(says):
                self._stream(_cut_input(stream_of(says, server.usage(body), number)))
            case Garbled(says):
                events = stream_of(says, server.usage(body), number)
                self._stream([*events[:3], ("content_block_delta", '{"type": "content_bl'), *events[3:]])
            case ErrorEvent(says, kind):
                error = json.dumps({"type": "error", "error": {"type": kind, "message": "on purpose"}})
                self._stream([*stream_of(says, server.usage(body), number)[:4], ("error", error)])
            case Reset():
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            case Hang():
                server.closing.wait()
                self.close_connection = True
            case Drip():
                self._head()
                while not server.closing.wait(0.02):
                    self._chunk(b": still here\n")
                self.close_connection = True
            case Web():
                self._whole(200, "<html>welcome</html>", {"content-type": "text/html"})

    def _stream(self, events: list[Event], finish: bool = True) -> None:
        self._head()
        for name, data in events:
            self._chunk(f"event: {name}\ndata: {data}\n\n".encode())
        if finish:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _whole(self, code: int, value: object, headers: dict[str, str] | None = None) -> None:
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(code)
        for name, content in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, content)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
