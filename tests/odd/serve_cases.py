"""What can't be served, or not where it was asked to be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from flows.serve.command import KEY, Limits, run_server
from tests.odd import tiny_models as tiny
from tests.odd.case import Case


def _serve(**changed: Any) -> Callable[[Path], object]:
    """With one thing changed, without which it would serve."""
    key = changed.pop("key", None)
    usual: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "name": "moslim", "upstream": None, "limits": Limits(1, 1, 8)}

    def act(folder: Path) -> object:
        with mock.patch.dict(os.environ, {} if key is None else {KEY: key}):
            return run_server(directory=tiny._policy(), cache=tiny.home(), **{**usual, **changed})

    return act


def _taken(folder: Path) -> object:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        return _serve(port=other.getsockname()[1])(folder)


def _no_policy(folder: Path) -> object:
    return run_server(folder, "127.0.0.1", 0, "moslim", Limits(1, 1, 8), None, folder)


CASES = [
    Case("serving a folder that is no policy", _no_policy, "is no policy of this project"),
    Case("serving on a port that is taken", _taken, "Give another --port"),
    Case("serving on a host that is not this machine's", _serve(host="192.0.2.1"), "can't listen on 192.0.2.1"),
    Case("serving on a host without an address", _serve(host="no such host"), "can't listen on no such host"),
    Case("serving under a name with a colon", _serve(name="a:b"), "--name 'a:b'"),
    Case("serving answers as long as the context", _serve(limits=Limits(1, 1, 256)), "the model's context has 256 tokens"),
    Case("serving under no name", _serve(name=""), "Give another"),
    Case("serving with an empty key", _serve(key=""), f"{KEY} is set and empty"),
    Case("serving with a key that no header carries", _serve(key="a\nb"), f"the key in {KEY}"),
    Case("serving with a key in other letters", _serve(key="schl\u00fcssel"), f"the key in {KEY}"),
    Case(
        "a server behind without its model",
        _serve(upstream=("http://127.0.0.1:9/v1", None)),
        "--upstream is given without --upstream-model",
    ),
    Case("a model behind without its server", _serve(upstream=(None, "m")), "--upstream-model is given without --upstream"),
    Case("a server behind at no address", _serve(upstream=("127.0.0.1:9", "m")), "is no address"),
]
