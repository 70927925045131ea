"""A model provider on loopback that speaks like OpenAI and like Anthropic, and remembers what it was asked."""

import contextlib
import functools
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict
    body: dict


class Provider:
    """Answers at once; a stream waits for `go_on` before everything that follows its first chunk."""

    def __init__(self):
        self.asked = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"provider": self}))
        self.server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.origin}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def last(self, marker):
        """The request whose body has `marker` in it."""
        return next(asked for asked in reversed(self.asked) if marker in json.dumps(asked.body))


@functools.cache
def the_provider():
    """One for all tests of a session; it ends with the process."""
    return Provider()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.provider.asked.append(Asked(self.path, headers, body))
        if body.get("stream"):
            return self.stream(chunk_of_anthropic if "messages" in self.path else chunk_of_openai)
        route = self.path.partition("?")[0].rsplit("/", 1)[-1]
        return self.answer({"embeddings": EMBEDDING, "messages": MESSAGE, "responses": RESPONSE}.get(route, CHAT))

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, chunk):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.event(chunk("first"))
            self.provider.go_on.wait(30)
            self.event(chunk("last"))
            if chunk is chunk_of_openai:
                self.event("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

    def event(self, text):
        raw = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        self.wfile.flush()

    def log_message(self, *_):
        pass


def chunk_of_openai(text):
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [choice]}
    return f"data: {json.dumps(data)}\n\n"


def chunk_of_anthropic(text):
    data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return f"event: content_block_delta\ndata: {json.dumps(data)}\n\n"


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
CHAT = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "stub", "usage": USAGE,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "from the provider"}, "finish_reason": "stop"}],
}
EMBEDDING = {
    "object": "list", "model": "stub", "usage": {"prompt_tokens": 1, "total_tokens": 1},
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
}
RESPONSE = {
    "id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "stub", "output": [{
        "type": "message", "id": "m", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": "from the provider", "annotations": []}],
    }],
}
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "stub", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "from the provider"}], "usage": {"input_tokens": 1, "output_tokens": 1},
}
