"""What ends a run that uses a model, each with what to do next. What can be tried again never gets this far."""

from __future__ import annotations


class ModelError(Exception):
    """The model cannot be used as asked: no SDK, no key, a request that the API refuses whenever it is sent."""


class Diverged(ModelError):
    """A run done again asks something else than the recorded one did, so the recorded answer is no answer to it."""
