"""`make bench-gpu`: the whole benchmark on this machine's GPU, from certificates to results.

Certificates lie in `benchmarks/certificates` (CERTIFICATES says otherwise). Where there are none and the proving code
is installed they are made first (benchmarks/certify.py); a machine with torch, triton and numpy alone runs those it is
given. Further words go to `synth bench`: make bench-gpu ARGS="--budget-minutes 9".
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("CERTIFICATES", "benchmarks/certificates"))


def main(words: list[str]) -> int:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    import torch

    from synth.bench.suite.command import NO_GPU, USAGE
    from synth.bench.suite.command import main as bench

    if not torch.cuda.is_available() and not {"--dry-run", "--device", "-h", "--help"} & set(words):
        print(
            "error: no GPU here. On a machine with one, with torch and triton, run this again; certificates are made"
            " beforehand where the proving code is:\n  python benchmarks/certify.py\n"
            '  make bench-gpu ARGS=--dry-run      shows what would run',
            file=sys.stderr,
        )
        return NO_GPU
    if not any(FOLDER.glob("*.cert.json")):
        missing = [name for name in ("lark", "z3") if importlib.util.find_spec(name) is None]
        if missing:
            print(
                f"error: no certificate in {FOLDER}, and none can be made without {', '.join(missing)}; make them where"
                " the project is installed (python benchmarks/certify.py) and bring the folder",
                file=sys.stderr,
            )
            return USAGE
        done = subprocess.run([sys.executable, "benchmarks/certify.py", str(FOLDER)], check=False)
        if done.returncode:
            print("not every kernel was certified; going on with those that were", file=sys.stderr)
    return bench([str(FOLDER), *words])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
