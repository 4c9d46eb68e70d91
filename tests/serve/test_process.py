"""The command as a process: many users at once, a kill, a start anew, Ctrl-C. The short form of benchmarks/serve.py."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("serve_benchmark", ROOT / "benchmarks" / "serve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.integration
def test_fifty_users_a_kill_and_a_start_anew(benchmark: Any, tmp_path: Path) -> None:
    policy = benchmark.tiny_policy(tmp_path / "policy")
    with benchmark.server(policy, tmp_path / "work") as (process, url):
        found = asyncio.run(benchmark.measured(url, users=50, seconds=2, tokens=48))
        assert found["answers"] >= 50
        assert (found["lost"], found["of_others"], found["different"]) == (0, 0, 0)
        assert found["distinct"] > 0.9, "answers must depend on what is asked for"
        assert found["ratio"] > 2
        ends = asyncio.run(benchmark.killed(process, url, users=20))
        assert set(ends) <= {"APIConnectionError", "APIError"}, ends
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    with benchmark.server(policy, tmp_path / "work", port) as (process, url):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model="moslim", messages=[{"role": "user", "content": "Hello"}], max_tokens=300, temperature=0, stream=True
        )
        next(iter(stream))
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().strip() == "stopped"
        assert process.wait(60) == 0
