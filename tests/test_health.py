"""The state of the guest's kernel, and what is worse than before."""

from __future__ import annotations

import pytest

from harness.guest.health import KernelHealth, Symptom


class TestKernelHealth:
    def test_health_is_parsed(self) -> None:
        assert KernelHealth.parse("0\n-\n-\n-\n0\n") == KernelHealth(0, None, None, None, 0)
        assert KernelHealth.parse("512\n1\n2\n0\n3\n") == KernelHealth(512, True, 2, 0, 3)
        assert KernelHealth.parse("0\n0\n0\n1\n0\n") == KernelHealth(0, False, 0, 1, 0)

    @pytest.mark.parametrize(
        "text",
        ["", "0\n-\n-\n-\n", "0\n-\n-\n-\n\n", "x\n-\n-\n-\n0\n", "0\n-\n-\n-\n0", "-1\n-\n-\n-\n0\n"],
    )
    def test_health_of_other_text_is_an_error(self, text: str) -> None:
        with pytest.raises(ValueError, match="no kernel state"):
            KernelHealth.parse(text)

    def test_worse_than_names_each_change(self) -> None:
        before = KernelHealth(1 << 12, True, 1, 0, 1)
        assert before.worse_than(before) == []
        assert KernelHealth(0, True, 1, 0, 0).worse_than(before) == []
        worse = KernelHealth(1 << 12 | 1 << 9 | 1 << 40, False, 3, 1, 3).worse_than(before)
        assert [one.text for one in worse] == [
            "new taint bit 9 (WARN)",
            "new taint bit 40 (see tainted-kernels.rst)",
            "warn_count has gone up by 2",
            "oops_count has gone up by 1",
            "lockdep has turned itself off",
            "2 DMABUFs are left over",
        ]

    def test_a_loaded_module_makes_nothing_worse(self) -> None:
        before, after = KernelHealth(1, True, 0, 0, 0), KernelHealth(1 | 1 << 12 | 1 << 13, True, 0, 0, 0)
        assert after.worse_than(before) == []

    def test_worse_than_leaves_out_the_taints_of_a_tool(self) -> None:
        before, after = KernelHealth(1, True, 0, 0, 0), KernelHealth(1 | 1 << 14 | 1 << 9, True, 0, 0, 0)
        (one,) = after.worse_than(before, {14})
        assert one.text == "new taint bit 9 (WARN)"

    def test_worse_than_sees_a_warning_of_a_tainted_kernel(self) -> None:
        before = KernelHealth(1 << 9, None, 1, 0, 0)
        after = KernelHealth(1 << 9, None, 2, 0, 0)
        (one,) = after.worse_than(before)
        assert (one.symptom, one.text) == (Symptom.WARN_COUNT, "warn_count has gone up by 1")

    def test_worse_than_ignores_an_absent_detector(self) -> None:
        off, without = KernelHealth(0, False, 0, 0, 0), KernelHealth(0, None, None, None, 0)
        assert off.worse_than(off) == []
        assert without.worse_than(without) == []
