"""The section about a language model that judges: in evaluation, and where rated rows have no label."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from moslim_core.settings_section import Section


class JudgeSettings(Section):
    """A language model that says levels, behind an OpenAI-compatible endpoint (its key: MOSLIM_JUDGE_API_KEY or OPENAI_API_KEY)."""

    base_url: str = Field(default="http://localhost:8000/v1", description="address of the endpoint; a local vLLM or Ollama serves one")
    model: str | None = Field(default=None, description="name under which the endpoint serves the model")
    concurrency: int = Field(default=8, ge=1, le=512, description="questions asked at the same time")
    timeout_seconds: float = Field(default=60.0, gt=0, description="longest wait for one answer")
    attempts: int = Field(default=6, ge=1, le=20, description="how often a question is asked before it counts as unanswered")
    max_tokens: int | None = Field(default=512, ge=1, description="longest answer, in tokens; null: not sent, for models that refuse it")
    temperature: float | None = Field(default=0.0, ge=0, description="sampling temperature; null: not sent, for models that refuse it")
    input_price: float = Field(default=0.0, ge=0, description="price of a million input tokens, in the currency of your bill")
    output_price: float = Field(default=0.0, ge=0, description="price of a million output tokens")

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        # Reading the port checks it.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.username or parts.query:
            raise ValueError("write http://HOST:PORT/v1 or https://HOST/v1, without a key in it")
        return value
