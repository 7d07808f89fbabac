"""A spec that is proved, compiled and timed quickly, a right kernel for it and a wrong one."""

SPEC = """\
name = "rowsum"
doc = "Sum of squares of every row of a matrix."
[dims]
R = { min = 1, max = 65536 }
C = { min = 1, max = 65536 }
[inputs]
X = { shape = ["R", "C"], dtype = "f32", abs_max = 100.0 }
[outputs]
Y = { shape = ["R"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = "Y[i] = sum[j < C](X[i, j] * X[i, j])"
[layout]
max_stride = 1048576
[bench]
target = "sm_90"
[[bench.search]]
name = "small"
sizes = { R = 8, C = 64 }
[[bench.heldout]]
name = "ragged"
sizes = { R = 7, C = 77 }
"""
RIGHT = """\
meta BC = 64

kernel rowsum(i < R):
    acc = zeros([BC], f32)
    for n in range(0, cdiv(C, BC)) carry acc:
        j = n * BC + arange(BC)
        x = load(X[i, j], mask=j < C, other=0)
        acc = acc + x * x
    store(Y[i + arange(1)], sum(acc, axis=0) + zeros([1], f32))
"""
WRONG = RIGHT.replace("cdiv(C, BC)", "C // BC")  # the last block is forgotten
