"""A real HTTP server on loopback that answers as vLLM documents, with transformers and PEFT behind it instead of vLLM's kernels."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


class Server(ThreadingHTTPServer):
    """Serves a base, and adapters of it that it is told to read from folders. `tokens`: whether it knows `return_token_ids`."""

    def __init__(self, base: Path, tokens: bool = True, rank: int = 16) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base, self.tokens, self.rank = base, tokens, rank
        self.adapted: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        # What is added to each log-probability that it tells.
        self.off = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def load(self, name: str, path: str) -> tuple[int, str]:
        if json.loads((Path(path) / "adapter_config.json").read_text())["r"] > self.rank:
            return 400, f"LoRA rank is greater than max_lora_rank {self.rank}."
        base = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        self.adapted[name] = PeftModel.from_pretrained(base, path).eval()
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        model, choices = self.adapted[body["model"]], []
        # As vLLM has it: every prompt of a call begins with the same random numbers, and the answers to one with numbers of their own.
        for index, (prompt, number) in enumerate(itertools.product(body["prompt"], range(body["n"]))):
            generator = torch.Generator().manual_seed(body["seed"] + number)
            ids, chances = list(prompt), []
            while len(chances) < body["max_tokens"] and not (chances and ids[-1] in body["stop_token_ids"]):
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                # vLLM tells those of the model itself, not of the temperature.
                log_probs = logits.log_softmax(-1)
                heat = body["temperature"]
                chosen = int(torch.multinomial((logits / heat).softmax(-1), 1, generator=generator)) if heat else int(logits.argmax())
                ids.append(chosen)
                chances.append(float(log_probs[chosen]) + self.off)
            choice: dict[str, Any] = {"index": index, "text": "", "logprobs": {"token_logprobs": chances}}
            choices.append(choice | ({"token_ids": ids[len(prompt) :]} if self.tokens and body["return_token_ids"] else {}))
        return {"object": "text_completion", "choices": choices[::-1]}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, said: Any) -> None:
        kind, body = ("text/plain", said) if isinstance(said, str) else ("application/json", json.dumps(said))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": "base"}]}) if self.path == "/v1/models" else self.answer(404, "Not Found")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        if self.path == "/v1/load_lora_adapter":
            self.answer(*self.server.load(body["lora_name"], body["lora_path"]))
        elif self.path == "/v1/unload_lora_adapter":
            del self.server.adapted[body["lora_name"]]
            self.answer(200, "Success")
        elif self.path == "/v1/completions":
            self.answer(200, self.server.complete(body))
        else:
            self.answer(404, "Not Found")


@contextmanager
def serving(base: Path, **options: Any) -> Iterator[Server]:
    server = Server(base, **options)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
