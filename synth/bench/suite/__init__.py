"""The benchmark of certificates on one device, against everything PyTorch ships for the same computation.

Runs where only torch, triton and numpy are: no solver, no parser, no database (a test holds that).
"""
