"""Proofs. Imports ir, z3 and sympy; knows nothing of Triton, language models, GPUs or run folders."""
