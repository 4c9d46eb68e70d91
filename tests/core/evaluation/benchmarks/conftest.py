"""The endpoint's fixtures, which ask a server on loopback and know no key."""

from __future__ import annotations

from tests.core.endpoint.conftest import endpoint, environment

__all__ = ["endpoint", "environment"]
