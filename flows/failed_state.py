"""How a flow says what a user can mend: it ends Failed with the error's lines, and no traceback stands in its log."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar, cast

from moslim_core.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


def failed_on_user_error(work: Callable[P, T]) -> Callable[P, T]:
    """Let the flow of this function end Failed with the lines of a UserError. Who calls the flow gets the error itself."""

    @wraps(work)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except UserError as error:
            from prefect.states import Failed

            # Of an exception that leaves the function Prefect logs the traceback; a state that it returns is the flow run's.
            return cast(T, Failed(message=str(error), data=error))

    # Prefect would look up the names in `work`'s annotations here, where they mean nothing.
    wrapped.__signature__ = signature(work, eval_str=True)  # type: ignore[attr-defined]
    return wrapped
