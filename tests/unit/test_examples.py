"""The examples run, from a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_train(tmp_path: Path) -> None:
    source = (ROOT / "examples" / "train.py").read_text()
    assert "steps=40" in source
    done = subprocess.run(
        [sys.executable, "-c", source.replace("steps=40", "steps=3")], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout
    written = {p.name for p in (tmp_path / "runs" / "train").iterdir()}
    assert written == {"attention.cert.json", "attention_bwd.cert.json"}
