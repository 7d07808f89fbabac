"""Runs emitted Gluon texts on the CPU, each under one adversary after another until it goes wrong.

A program of its own, with Triton's interpreter on: reads a request from standard input, writes for each text what went
wrong ("" where nothing did) as JSON to standard output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from lowering.hopper.emulated import emulated_module
from lowering.hopper.simulate import adversaries
from lowering.interpreted import mend, run_case


def verdict(source: str, request: Any, inputs: dict[str, Any], wanted: dict[str, Any]) -> str:
    module, emulator = emulated_module(source)
    for adversary in adversaries(request["adversaries"]):
        emulator.adversary = adversary
        try:
            got = run_case(module, request["plan"], request["launches"], {**request, "at_once": 1}, inputs)
        except Exception as error:  # whatever a wrong text does
            return f"{type(error).__name__}: {error}"
        for name, want in wanted.items():
            if not np.allclose(got[name], want, rtol=2**-6, atol=2**-6):
                return f"{name} differs"
    return ""


if __name__ == "__main__":
    request = json.loads(sys.stdin.read())
    mend()
    inputs, wanted = ({n: np.array(x) for n, x in request[side].items()} for side in ("inputs", "wanted"))
    print(json.dumps({name: verdict(text, request, inputs, wanted) for name, text in request["sources"].items()}))
