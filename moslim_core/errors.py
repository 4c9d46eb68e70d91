"""Errors that a user can mend."""


class UserError(Exception):
    """What was given, what is needed, what to do: at most three lines, shown without a traceback (exit code 2)."""
