"""Second lowering of a certified program, for Hopper: an explicit asynchronous program, then Gluon text."""
