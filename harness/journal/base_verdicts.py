"""The cached results of scenarios on a base alone, so that each is asked once.

An entry is valid under the conditions that decide a verdict: the base's tree, the
kernel configuration, the compiler, the guest image, the accelerator, QEMU (a program
of the same version may have other devices), and the digest of suites, probes and
harness.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from harness.lib.cache import Store
from harness.lib.files import digest, write_atomically
from harness.verdict.comparison import BaseAnswer
from harness.verdict.verdict import Verdict

KIND = "base-verdicts"
#: The facts of run.json that decide a verdict of the base.
CONDITIONS = (
    "base_tree",
    "fragments",
    "compiler",
    "image",
    "accelerator",
    "qemu",
    "qemu_digest",
    "program",
)
# A fault of the harness or the host is no result: the base is asked again.
_KEPT = (Verdict.CONFORMS, Verdict.VIOLATES, Verdict.NOT_APPLICABLE, Verdict.KERNEL_DIED)


class BaseVerdicts:
    """The results that are cached for one base under the conditions in ``facts``."""

    def __init__(self, store: Store, facts: Mapping[str, object]) -> None:
        self._store = store
        self.conditions = {name: str(facts.get(name, "")) for name in CONDITIONS}
        self._key = digest(*self.conditions.values())

    def get(self, scenario: str) -> BaseAnswer | None:
        """Return the result of a scenario, by its id; None if there is none, or it is damaged."""
        path = self._store.path(KIND, self._key, f"{digest(scenario)}.json")
        try:
            answer = BaseAnswer.read(json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return answer if answer.verdict in _KEPT else None

    def put(self, scenario: str, answer: BaseAnswer) -> None:
        """Keep the result of a scenario, unless it is a fault of the harness or the host."""
        if answer.verdict in _KEPT and all(self.conditions.values()):
            content = {"scenario": scenario, **answer.members(), "conditions": self.conditions}
            path = self._store.path(KIND, self._key, f"{digest(scenario)}.json")
            write_atomically(path, json.dumps(content, indent=1) + "\n")
