"""Why a world's episode ends before its time: names by code, the same in every loop."""

from __future__ import annotations

# The first two failures are those that EndEffectorController.check_codes finds before an action is executed.
FAILURES: tuple[str | None, ...] = (
    None, "non_finite_action", "out_of_range_action", "diverged", "target_out_of_reach",
)  # fmt: skip
NON_FINITE, OUT_OF_RANGE, DIVERGED, OUT_OF_REACH = 1, 2, 3, 4
