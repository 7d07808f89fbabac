"""`python -m synth.bench` is `synth bench`, without anything but torch, triton and numpy."""

from synth.bench.suite.command import main

raise SystemExit(main())
