"""`moslim studio`: the page's server, on loopback unless told otherwise. Everything that it loads is its own; it asks nobody else."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from moslim_core.errors import UserError
from tasks.surroundings.network import LOOPBACK, bound

# A visitor whose connection was lost finds the page as it was for so many seconds.
RECONNECT_SECONDS = 30.0


def serve(work_dir: Path, policy: str | None, host: str, port: int, base: str | None) -> None:
    """Serve until Ctrl-C. Raises UserError where something is missing: NiceGUI, a policy, a free port."""
    listener = _listener(host, port)
    from flows.studio.loaded_models import Workshop, newest

    workshop = Workshop(work_dir, base)
    reference = policy if policy is not None else newest(workshop.choices())
    typer.echo(f"Loading {reference} ...")
    workshop.open(reference)
    import uvicorn

    app = application(workshop, work_dir / "studio", reference, host)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    address = f"[{host}]" if ":" in host else host
    typer.echo(f"Studio   http://{address}:{listener.getsockname()[1]}\nCtrl-C ends it.")
    if not _is_loopback(host):
        typer.echo("Note: whoever reaches this address can use it; it asks for no password.", err=True)
    asyncio.run(server.serve(sockets=[listener]))


def require_nicegui() -> None:
    """Raises UserError where the extra is not installed."""
    if find_spec("nicegui") is None:
        raise UserError(
            "moslim studio needs NiceGUI, which is not installed.\n"
            "Run: pip install 'moslim[studio]' -c constraints.txt\n"
            "In a clone of the project: pip install -e '.[studio]' -c constraints.txt"
        )


def application(workshop: Any, home: Path, reference: str, host: str = "127.0.0.1") -> Any:
    """The ASGI application. `home` keeps history, ratings and the key of visitors' cookies; one application a process."""
    home.mkdir(parents=True, exist_ok=True)
    # NiceGUI reads it when it is first imported, and else makes a folder wherever it is started.
    os.environ["NICEGUI_STORAGE_PATH"] = str(home / "pages")
    from fastapi import FastAPI
    from nicegui import ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if _is_loopback(host):
        # Another site's name that leads here must not read the page.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, f"[{LOOPBACK[2]}]", host])
    ui.run_with(
        app,
        root=_root(workshop, home, reference),
        title="MOSLIM studio",
        language="en-US",
        dark=None,
        binding_refresh_interval=None,
        favicon="🎚️",
        tailwind=False,
        reconnect_timeout=RECONNECT_SECONDS,
        storage_secret=_secret(home / "cookies.key"),
        show_welcome_message=False,
    )
    return app


def _root(workshop: Any, home: Path, reference: str) -> Callable[[], Any]:
    from nicegui import app, ui

    from flows.studio.page import Page

    styles = "".join(files(package).joinpath("page.css").read_text("utf-8") for package in ("moslim_core.report", "flows.studio"))

    async def root() -> None:
        ui.add_css(styles)
        browser, client = app.storage.browser["id"], ui.context.client
        # A policy that another one has displaced takes a while to load: longer than a browser waits for a page.
        told = ui.label(f"Loading {reference} …").classes("loading").props("role=status")
        await client.connected()
        try:
            opened = await asyncio.to_thread(workshop.open, reference)
        except UserError as error:
            told.set_text(str(error))
            return
        told.delete()
        page = Page(workshop, home, opened, browser)
        client.on_delete(page.leave)
        page.build()

    return root


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens there already, so that a port that is taken is told before a model is loaded."""
    try:
        listener = bound(host, port)
        listener.listen(128)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: nothing can listen there ({getattr(error, 'strerror', None) or error}).\n"
            "Give another --port, 0 for any that is free, or an address of this machine with --host."
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    return host in LOOPBACK or host.startswith("127.")


def _secret(file: Path) -> str:
    """The key that signs cookies: kept, so that a browser stays the same one after a restart."""
    if not file.is_file() or not file.read_text().strip():
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
            written.write(secrets.token_urlsafe(32))
    return file.read_text()
