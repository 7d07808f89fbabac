"""Agreement of tensors: by scale, never by a fixed number."""

from __future__ import annotations

import numpy as np
import pytest

from ir.compare import ShapeMismatch, mismatch

INF, NAN = np.inf, np.nan


def worst(actual: list[float], expected: list[float], tolerance: float = 1e-6) -> tuple[int, ...] | None:
    found = mismatch({"O": np.array(actual)}, {"O": np.array(expected)}, tolerance)
    return found.cell if found else None


def test_equal_tensors_agree() -> None:
    assert worst([1.0, -INF, 3.0], [1.0 + 1e-9, -INF, 3.0]) is None


def test_tiny_outputs_are_not_compared_with_a_fixed_number() -> None:
    assert worst([0.0, 0.0], [1e-20, 3e-20]) == (1,)


def test_what_is_lost_at_the_end_of_float64_is_no_difference() -> None:
    assert worst([3.0e-318, 0.0], [3.2e-318, 1e-300]) is None
    assert worst([0.0, 0.0], [1e-250, 3e-250]) == (1,)


def test_a_small_cell_is_measured_by_the_scale_of_its_tensor() -> None:
    assert worst([1e-9, 1e3], [0.0, 1e3]) is None
    assert worst([1e-2, 1e3], [0.0, 1e3]) == (0,)


@pytest.mark.parametrize(("actual", "expected"), [(NAN, 1.0), (NAN, NAN), (1.0, -INF), (-INF, 1.0), (INF, -INF)])
def test_nan_agrees_with_nothing_and_infinities_with_themselves(actual: float, expected: float) -> None:
    assert worst([2.0, actual], [2.0, expected]) == (1,)


def test_a_zero_tensor_must_be_zero_up_to_noise() -> None:
    assert worst([1e-20], [0.0]) is None
    assert worst([1e-6], [0.0]) == (0,)


def test_the_worst_cell_of_all_tensors_is_reported() -> None:
    actual = {"O": np.array([[1.0, 2.1]]), "LSE": np.array([5.0])}
    found = mismatch(actual, {"O": np.array([[1.0, 2.0]]), "LSE": np.array([1.0])}, 1e-6)
    assert found is not None
    assert (found.tensor, found.cell, found.actual, found.expected) == ("LSE", (0,), 5.0, 1.0)


def test_cells_the_spec_leaves_open_can_be_skipped() -> None:
    expected = {"O": np.array([NAN, 1.0])}
    assert mismatch({"O": np.array([7.0, 1.0])}, expected, 1e-6, skip_undefined=True) is None
    assert mismatch({"O": np.array([7.0, 2.0])}, expected, 1e-6, skip_undefined=True) is not None


def test_a_missing_tensor_or_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(ShapeMismatch, match="O"):
        mismatch({}, {"O": np.zeros(2)}, 1e-6)
    with pytest.raises(ShapeMismatch, match=r"\(3,\)"):
        mismatch({"O": np.zeros(3)}, {"O": np.zeros(2)}, 1e-6)


def test_what_cancels_to_nothing_is_measured_against_the_terms_that_cancel() -> None:
    zero, inputs = {"dQ": np.zeros(2)}, {"Q": np.array([3.0, -0.5])}
    assert mismatch({"dQ": np.array([0.0, 3e-16])}, zero, 1e-6, inputs=inputs) is None
    assert mismatch({"dQ": np.array([0.0, 3e-16])}, zero, 1e-6) is not None
    assert mismatch({"dQ": np.array([0.0, 1e-4])}, zero, 1e-6, inputs=inputs) is not None


def test_small_inputs_leave_room_for_the_rounding_of_what_cancels() -> None:
    zero, inputs = {"LOSS": np.array([-6e-17])}, {"X": np.array([0.06])}  # log(exp(x)) - x
    assert mismatch({"LOSS": np.array([0.0])}, zero, 1e-6, inputs=inputs) is None
    assert mismatch({"LOSS": np.array([1e-6])}, zero, 1e-6, inputs=inputs) is not None
    exact = {"dQ": np.zeros(2)}  # one key: the weight is 1, and dP less delta is nothing but rounding
    assert mismatch({"dQ": np.array([0.0, 6e-17])}, exact, 1e-9, inputs={"Q": np.array([0.9])}) is None
    assert mismatch({"dQ": np.array([0.0, 1e-8])}, exact, 1e-9, inputs={"Q": np.array([0.9])}) is not None
