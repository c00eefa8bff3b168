"""Print how many scenarios of a stored run can be packed into a kit, and why the others cannot.

    python bench/kits.py [RESULTS]

RESULTS is by default the newest run below results/.  Nothing is built or booted.  Scenarios that
are not applicable to the kernel, or were not reached, have nothing to show and do not count.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from harness.journal.reader import read
from harness.lib.errors import PatchproofError, UsageError
from harness.run.claim import claim_of
from harness.verdict.verdict import Verdict

NOTHING_TO_SHOW = (Verdict.NOT_APPLICABLE, Verdict.NOT_REACHED)
LONGEST = 70  # characters of a reason, which begins alike for one kind


def main() -> int:
    """Print the kinds of claims, the reasons, and the share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, nargs="?", default=Path("results/latest"))
    directory = parser.parse_args().results
    packed: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    try:
        results = read(directory).scenarios
    except PatchproofError as error:
        sys.exit(str(error))
    for result in results:
        if result.verdict in NOTHING_TO_SHOW:
            continue
        try:
            packed[str(claim_of(result, directory).kind)] += 1
        except UsageError as error:
            refused[error.message.partition(": ")[0][:LONGEST]] += 1
    for counts, words in ((packed, "can be packed"), (refused, "cannot")):
        print(f"{counts.total()} {words}")
        for name, count in counts.most_common():
            print(f"  {count:>4}  {name}")
    total = packed.total() + refused.total()
    print(f"{packed.total() / max(total, 1):.1%} of {total} scenarios that ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
