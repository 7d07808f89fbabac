"""The product: commands, the proposer, the prove-and-run pipeline and its benchmarks."""

__version__ = "0.1.0"
