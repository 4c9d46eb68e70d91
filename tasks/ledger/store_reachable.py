"""Whether a store of runs can be reached, said in seconds: MLflow's own clients repeat requests to a dead one for minutes. (ours)"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from urllib.parse import SplitResult, urlsplit

from moslim_core.errors import UserError

# A server that is being restarted is there again by the last try.
TRIES, WAIT_SECONDS, ANSWER_SECONDS = 3, 1.0, 5.0
# Ports of databases whose address names none.
PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}
# What a gateway says of a server behind it that is away.
AWAY = (502, 503, 504)


def require_answer(uri: str) -> None:
    """Raises UserError where nothing answers at the address of a tracking server or a database. What it answers is not looked at."""
    reason = _silence(uri)
    for _ in range(TRIES - 1):
        if reason is None:
            return
        time.sleep(WAIT_SECONDS)
        reason = _silence(uri)
    if reason is not None:
        raise UserError(
            # An address may hold a password before its host.
            f"the store of runs {uri.rpartition('@')[2]} does not answer ({reason}).\n"
            "Start it, or unset MLFLOW_TRACKING_URI and MLFLOW_BACKEND_STORE_URI: runs are then kept below the work directory."
        )


def _silence(uri: str) -> str | None:
    """Why nothing answers; None where something does, or none is expected to."""
    try:
        place = urlsplit(uri)
        port = place.port
    except ValueError as error:
        return str(error)
    if place.scheme in ("http", "https"):
        return _asked(place)
    port = port or PORTS.get(place.scheme.partition("+")[0])
    if not (place.hostname and port and place.scheme.partition("+")[0] in PORTS):
        return None
    try:
        with socket.create_connection((place.hostname, port), ANSWER_SECONDS):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _asked(place: SplitResult) -> str | None:
    # As MLflow's client asks, through the proxy if there is one.
    request = urllib.request.Request(place._replace(netloc=place.netloc.rpartition("@")[2], query="", fragment="").geturl(), method="HEAD")
    try:
        with contextlib.closing(urllib.request.build_opener().open(request, timeout=ANSWER_SECONDS)):
            return None
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}" if error.code in AWAY else None
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error
    # Which certificates it takes is MLflow's own setting.
    return None if isinstance(reason, ssl.SSLError) else str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
