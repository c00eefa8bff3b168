"""The order in which scenarios are tried on a generated mutant: the most likely killers first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.mutants.generate.fault import Fault

#: Scenarios that are tried first on every mutant, before any mutant gets all of its scenarios.
FIRST = 40
_UNKNOWN_SECONDS = 5.0


class Order:
    """Rank scenarios by the mutants that they have killed, of the same function first.

    Among the others each scenario comes with one of its variants before any comes with a second, the quick
    ones first.

    ``seconds`` are the durations by the function of a scenario.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = seconds
        self._kills: Counter[str] = Counter()
        self._near: Counter[tuple[str, str, str]] = Counter()

    def killed(self, fault: Fault, scenario: str) -> None:
        """Count a mutant that a scenario has killed."""
        for name in {scenario, scenario.partition("[")[0]}:
            self._kills[name] += 1
            self._near[fault.file, fault.function, name] += 1

    def of(self, fault: Fault, scenarios: Sequence[str]) -> list[str]:
        """Return the scenarios, the most likely killers of a fault first."""
        variants: Counter[str] = Counter()
        ranked = []
        for name in scenarios:
            scenario = name.partition("[")[0]
            seconds = self._seconds.get(scenario, _UNKNOWN_SECONDS)
            near = self._near[fault.file, fault.function, name]
            ranked.append(((-near, -self._kills[name], variants[scenario], seconds), name))
            variants[scenario] += 1
        return [name for _, name in sorted(ranked, key=lambda one: one[0])]
