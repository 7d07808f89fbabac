"""What the command line says in one line instead of a traceback, besides errors in a text the user wrote."""

from __future__ import annotations


class Unavailable(Exception):
    """Something outside that a command needs is not there, or not as it should be; the message says what to do."""
