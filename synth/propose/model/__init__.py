"""A language model as a proposer: it is asked for kernels, told what the gate said of them, and asked again.

Whatever it writes is text for the gate. Nothing here decides what is correct, and nothing that the model says can.
"""

from __future__ import annotations

from synth.propose.model.errors import Diverged, ModelError
from synth.propose.model.examples import Example
from synth.propose.model.proposer import ModelProposer
from synth.propose.model.settings import ModelSettings

__all__ = ["Diverged", "Example", "ModelError", "ModelProposer", "ModelSettings"]
