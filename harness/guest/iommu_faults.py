"""The faults that the guest's IOMMUs report, counted by their interrupts."""

from __future__ import annotations

from harness.guest.answers import is_count
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

# Print the total of the interrupts by which the IOMMUs report faults, once it is above $1.
# Print nothing if there is no such interrupt.
_FAULTS = r"""
tries=0
while :; do
    total=
    for irq in /sys/kernel/irq/*; do
        read -r name <"$irq/actions" || continue
        case $name in dmar*) ;; *) continue;; esac
        read -r counts <"$irq/per_cpu_count"
        rest=$counts,
        while [ "$rest" ]; do total=$((${total:-0} + ${rest%%,*})); rest=${rest#*,}; done
    done
    tries=$((tries + 1))
    [ "$total" ] || exit
    if [ "$total" -gt "$1" ] || [ $tries -gt 50 ]; then echo "$total"; exit; fi
done
"""


class IommuFaults:
    """The number of faults since the first count(), which so returns 0."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._first: int | None = None

    def count(self, above: int = -1) -> int:
        """Return the number so far; wait a moment until it is more than ``above``.  Raises HarnessError."""
        self.guest.recorder.step(f"guest iommu-faults above={above}")
        if self._first is None:
            self._first = self._total(-1)
        count = self._total(above + self._first) - self._first
        self.guest.recorder.reply(f"ok {count}")
        return count

    def _total(self, above: int) -> int:
        answer = self.guest.script(_FAULTS, str(above)).stdout.decode(errors="replace").strip()
        if not is_count(answer):
            raise HarnessError(
                "The faults of the guest's IOMMU cannot be counted: the total of the interrupts named dmar "
                f"in /sys/kernel/irq is {answer[:80]!r}."
            )
        return int(answer)
