"""What the environment says about proxies, made fit for a run: its servers listen on loopback, where no proxy leads."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import urllib.request

from moslim_core.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
NAMES = ("NO_PROXY", "no_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def reach_loopback() -> None:
    """Let no library of this process, or of one started by it, ask a proxy for loopback. The user's other exceptions stay.

    Raises UserError where proxies or certificates are named that no client can be made with: else a run would meet that in its middle.
    """
    given = {name: os.environ.get(name) for name in NAMES}
    for name, entries in given.items():
        # Most libraries read the lower-case name where both are there: it must not hide what the other one says.
        said = entries or next(filter(None, given.values()), "")
        # Clients disagree about brackets around an address; without them all of them read it.
        wanted = [re.sub(r"^\[([0-9a-fA-F:.]+)\]$", r"\1", entry.strip()) for entry in said.split(",") if entry.strip()]
        os.environ[name] = ",".join(wanted if wanted == ["*"] else dict.fromkeys([*wanted, *LOOPBACK]))
    certificates = [name for name in CERTIFICATES if os.environ.get(name)]
    if certificates or any(given.values()) or set(urllib.request.getproxies()) - {"no"}:
        _make_client(certificates)


def _make_client(certificates: list[str]) -> None:
    import httpx

    try:
        httpx.Client().close()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{' and '.join(certificates)}: no certificates there ({reason}).\nName a file that has some, or unset it."
        ) from error
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        # The address is not repeated: it may hold a password.
        named = ", ".join(sorted(name for name in os.environ if name.lower().endswith("_proxy") and name not in NAMES))
        reason = str(error).splitlines()[0].split(":")[0]
        if not named:
            raise UserError(
                f"NO_PROXY has an entry that no client can read ({reason}).\n"
                "Write entries as HOST, .DOMAIN or ADDRESS, with commas between."
            ) from error
        raise UserError(
            f"no client can use the proxy that {named} names ({reason}).\n"
            "Name one as http://HOST:PORT, or for SOCKS run: pip install 'httpx[socks]' 'requests[socks]'\n"
            f"Without a proxy, as for a run whose models and data are on this machine: unset {named.replace(',', '')}"
        ) from error


def free_port(wanted: int = 0) -> int:
    """A loopback port that nothing listens on now: the one that is wanted, if it is such a one."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no port is free on loopback")


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet; port 0 is any that is free. Raises OSError, UnicodeError or OverflowError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, kind, protocol)
    # Of a server that was killed, connections linger for a minute.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    return made
