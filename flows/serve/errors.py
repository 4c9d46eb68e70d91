"""Refusals as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from moslim_core.data.rows import well_formed

TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal. `param`: the part of the request that it is about; `code`: the reason, for programs."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's API has errors."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": well_formed(str(self)), "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        """The HTTP response."""
        return as_json(self.body, self.status, self.headers)


def as_json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response with `body` as JSON in UTF-8."""
    return Response(json.dumps(body, ensure_ascii=False).encode(), status, dict(headers or {}), "application/json")
