"""N1: how far what a kernel computes in machine floats is from the spec's value, as a formula.

`ir.float_model` says what a machine operation may do, `ir.error_formula` is what bounds are written in. `extents`
bounds integers by sizes; `errors` has a rule for each operation, `rules` one for each kind of expression; `walk`
applies them to a program, `recurrence` to its loops; `cells` puts it together with the algebra. docs/rounding.md has
the theorem.
"""
