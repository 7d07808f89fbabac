"""What each obligation demands, what usually breaks it, and what helps a proof of it along: general knowledge of the
language, the same for every kernel and spec. What is known of one candidate is in the other files of this package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """`demand` in one sentence; `causes` of a refutation, commonest first; `helps` when it is left unproved."""

    demand: str
    causes: tuple[str, ...]
    helps: tuple[str, ...]


ADVICE = {
    "B1": Advice(
        "every load and store whose mask holds lies inside its tensor, in every program, iteration and lane",
        (
            "a mask that is missing, or that compares another index or another size than the access uses",
            "a tile index without its tile size (t + arange(BM) for t * BM + arange(BM))",
            "an index of a longer axis for a tensor with fewer cells there (grouped heads: h // (H // G))",
        ),
        (
            "mask the access by its own indices against the tensor's own extents",
            "write the index as tile * SIZE + arange(SIZE), the form that is shown to be in bounds at once",
        ),
    ),
    "B2": Advice(
        "every integer and address offset fits the width it is computed in, up to the spec's largest sizes",
        (
            "a cast to i32 of an index that grows with several sizes",
            "offset_bits = 32 in the schedule, for tensors that may be longer than 2^31 elements",
        ),
        ("leave integers as `int` (the width is chosen for you) and drop offset_bits", "cast to i64 instead of i32"),
    ),
    "R1": Advice(
        "no two programs, iterations or lanes of one launch store the same cell",
        (
            "a grid axis that the stored index does not use: every program along it stores the same cells",
            "a store inside a loop whose counter the stored index does not use",
            "tiles that overlap: a stride smaller than the tile",
        ),
        (
            "store each cell from one program, with an index from which the program ids can be read off",
            "give each program a slice of a scratch tensor and combine the slices in a later kernel, or use atomic_add",
        ),
    ),
    "R2": Advice(
        "no load of a launch hits a cell that the same launch stores",
        ("a kernel that reads back its own output or scratch: another program may or may not have stored it yet",),
        ("put the reading into a later kernel of the file: kernels run one after the other",),
    ),
    "C1": Advice(
        "every cell of every output and scratch tensor is stored, before a kernel reads it or adds to it",
        (
            "a grid extent rounded down: the last, partial tile has no program (use cdiv(M, BM))",
            "a store mask or loop bound that leaves rows out, such as rows that see no key",
            "an output or scratch tensor that no kernel stores, or adds to without setting it to zero first",
        ),
        (
            "store all cells of a tile under the bounds mask alone, and choose the value by where(...)",
            "use an index map that can be inverted: tile * SIZE + arange(SIZE), heads as h, h // R or h * R + r",
        ),
    ),
    "D1": Advice(
        "no stored value depends on an undefined operation: x / 0, -inf - -inf, 0 * inf, log of a negative number",
        (
            "a row that has seen no key yet: its maximum is -inf, and s - m is -inf - -inf "
            "(use m_safe = where(m == -inf, 0.0, m))",
            "a division by a row sum that is 0 (use where(l == 0.0, 1.0, l))",
            "lanes past the end that are loaded with other=0 and then divided or logged",
        ),
        ("guard the operand: where(condition, safe value, x) before the operation, not after it",),
    ),
    "E1": Advice(
        "every stored output cell equals the spec's formula over the real numbers",
        (
            "a mask that lets in, or leaves out, lanes past the end or pairs the spec masks",
            "loop bounds that skip a block some row needs, or visit one twice",
            "an accumulator or row sum that is not rescaled, or rescaled twice, when the running maximum moves",
            "a factor forgotten or used twice: scale, log2e with exp2, the division by the row sum",
            "a wrong index: another batch or head (grouped heads: h // (H // G)), rows and columns swapped",
        ),
        (
            "carry sums in a form the loop rule knows: x' = a * x + b with the same rescale a = exp(m - m') for all of "
            "them; a maximum as m' = maximum(m, ...)",
            "carry an un-normalised sum and divide once after the loop",
            "fewer comparisons of reals in one update: at most 3 stay open at once",
            "a mean or a variance as sums, not as running means (Welford): two passes, or around the row's first value",
        ),
    ),
    "S1": Advice(
        "no exponential, sum, product or cast overflows and no divisor underflows, for every input in the spec's range",
        (
            "exp of a score from which no maximum was subtracted",
            "a sum or product kept in f16 (accumulate in f32, cast when storing)",
            "subtracting a maximum that is not one of the row's own visible scores",
        ),
        (
            "subtract the running maximum (or a saved log-sum-exp) of the very scores inside exp",
            "keep accumulators in f32 and cast at the store",
        ),
    ),
    "V1": Advice(
        "the conditions of every store can hold together for some admitted shape",
        ("a mask or loop range that no size, program and lane meets: the store never happens",),
        ("remove the condition that contradicts the limits of the spec",),
    ),
}  # fmt: skip

# What a residual goal says (a pattern, in the prover's words), and what helps then. docs/proof.md lists what is not
# supported.
REASONS = (
    (
        r"of integers along an axis",
        "reduce floats instead: where(condition, 1.0, 0.0) and max or sum of that; or decide for each row",
    ),
    (r"is not known to be positive", "divide by a meta, a static dimension, a size of minimum 1, or max(d, 1)"),
    (
        r"does not grow by a fixed amount|carried integer",
        "compute the integer from the loop counter, not by carrying it",
    ),
    (r"a carried bool", "carry 1.0 or 0.0 as an f32, or compute the condition from the loop counter"),
    (r"\+inf has no meaning", "use -inf with maximum (a minimum of x is -maximum of -x over finite numbers)"),
    (r"before any kernel stored it|no store to read from", "put the kernel that stores it first in the file"),
    (
        r"holds here|inverse|does not determine|tell which execution",
        "store scratch by an index from which program, iteration and lane can be read off: one grid axis or tile "
        "(t * SIZE + arange(SIZE)) for each dimension",
    ),
    (r"loop bound that depends on floats", "bound loops by sizes, metas, program ids and integer inputs"),
    (r"uses one name for two loops", "give every loop of a kernel its own counter name"),
    (
        r"no answer within|more than .* (solver queries|terms)|timeout|canceled",
        "the proof ran out of its limit: simpler index arithmetic (one division by G at most, no products of "
        "program ids), fewer nested loops, masks and cases, or fewer kernels",
    ),
    (r"process ended unasked", "the proof ran out of memory: fewer kernels, loops and nested reductions"),
    (r"the prover failed", "a defect of the prover, not of the kernel: write the same thing in another form"),
    (r"SymPy does not confirm", "rescale every accumulator of a loop by the same factor exp(m - m_new)"),
    (
        r"stored is finite when",
        "make the value -inf exactly where the spec's is: guard rows that see no key, with where(m == -inf, ..)",
    ),
    (
        r"argument of exp is not shown",
        "subtract the running maximum of the very scores inside exp (or a saved log-sum-exp of them), not an estimate; "
        "write 1 / (1 + exp(-x)) as sigmoid(x); where x is small by nature, say so in the spec (abs_max)",
    ),
    (
        r"lost to underflow: .*sqrt\(",
        "the mean of squares less the square of the mean may round to 0 or below: sum squares of differences from the "
        "mean, or from the row's first value, or clamp it with maximum(.., 0.0); and add eps under the root",
    ),
    (
        r"lost to underflow: .*max\{\[ \| [^]]*\] -\d{4,}",
        "start the running maximum at -inf and mask scores with -inf: below a finite stand-in every weight is 0",
    ),
    (
        r"lost to underflow(?!.*(sqrt\(|max\{\[ \| [^]]*\] -\d{4,}))",
        "a divisor, or an argument of log, has to be 2^-24 at least as floats compute it: a sum of exponentials less "
        "their own maximum holds a 1; elsewhere add an epsilon, or clamp it with maximum(x, eps)",
    ),
    (r"argument of sqrt", "clamp what is under the root with maximum(x, 0.0), or sum squares of differences"),
    (
        r"no store is shown to write every such cell",
        "let each dimension be one grid axis, loop or tile from 0 up: g * SIZE + r with r in range(SIZE), not a loop "
        "from g * SIZE on",
    ),
)

RULES = {
    "K0": "the grammar: docs/language.md shows every form of statement and expression on one page",
    "K1": "names: one meaning each, assigned before use, and what a loop changes stands after `carry`",
    "K2": "types: operands have one dtype and one rank, tile extents are static powers of two, nothing converts itself",
    "K003": "statements are assignments, `store`, `atomic_add` and `for`; no `if`, `while`, `return` or `+=`",
    "K101": "names in scope: the spec's sizes, parameters, tensors; metas, program ids and what was assigned above",
    "K102": "a name has one meaning: the spec's and the language's own names cannot be taken",
    "K103": "what a loop changes and keeps is listed: `for n in range(stop) carry m, l, acc:`",
    "K104": "a carried name has a value of its final dtype and shape before the loop",
    "K105": "the operations are those of the table in docs/language.md, and no others",
    "K106": "a tensor is read by `load(T[...])`, with an index for each named dimension",
    "K201": "of two floats the wider wins; integers, floats and bools never mix without a cast or `where`",
    "K202": "broadcasting needs equal ranks with extents equal or 1: write x[:, None] or x[None, :]",
    "K203": "an integer is written without a decimal point, and no constant divides by zero",
    "K205": "a tile extent, meta or step is a number at compile time; a grid extent is an integer over sizes and metas",
    "K206": "tile extents are powers of two, at most 2^20 elements a tile",
    "K207": "a cell has one integer index for each dimension of its tensor, scalars or tiles of one rank",
    "K208": "kernels store to outputs and scratch, and the value has the tensor's dtype: cast(x, T.dtype)",
    "K209": "the schedule has num_warps, num_stages, warp_specialize, maxnreg, offset_bits, persistent and skip_ones",
    "K210": "a carried name keeps its dtype and shape from iteration to iteration",
}


def rule(code: str) -> str:
    """The rule of the language an error code stands for, the most particular one known; empty for none."""
    return RULES.get(code) or RULES.get(code[:2], "")
