"""Where the servers keep their records: SQLite below the work directory, or PostgreSQL, named in the servers' own variables.

An address may hold a password: it goes from environment to environment, and stands on no command line and in no file.
"""

from __future__ import annotations

import importlib.util
import os

from moslim_core.errors import UserError
from tasks.ledger.ledger import DATABASE

DRIVERS = {"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg", DATABASE: "postgresql+psycopg2"}
CONNECT_SECONDS = 10


def check_databases() -> None:
    """Raises UserError where an address is given and no server can work with it: before both try for minutes."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    places = set()
    for name in [name for name in DRIVERS if os.environ.get(name)]:
        try:
            url = make_url(os.environ[name])
        except ArgumentError:
            url = None
        if url is None or url.drivername != DRIVERS[name]:
            # The address is not repeated: its password would be, too.
            raise UserError(f"{name} is no address of PostgreSQL.\nWrite {DRIVERS[name]}://USER:PASSWORD@HOST:PORT/DATABASE.")
        places.add((url.host, url.port, url.database))
        _connect(name, url.set(drivername="postgresql", query={}).render_as_string(hide_password=False))
    if all(map(os.environ.get, DRIVERS)) and len(places) == 1:
        raise UserError(f"{' and '.join(DRIVERS)} name one database, but both servers have a table alembic_version.\nMake a second one.")


def _connect(name: str, address: str) -> None:
    if importlib.util.find_spec("psycopg2") is None:
        raise UserError(f"{name} is given, but PostgreSQL's driver is not installed.\nRun: pip install 'moslim[postgres]'")
    import psycopg2

    try:
        psycopg2.connect(address, connect_timeout=CONNECT_SECONDS).close()
    except psycopg2.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: {reason}.\nStart PostgreSQL, and give each server a database of its own: createdb NAME.") from None
