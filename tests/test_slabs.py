"""The slab caches of a kernel, and the ones that have grown."""

from __future__ import annotations

import pytest

from harness.guest.slabs import Slabs
from harness.lib.errors import HarnessError

SLABS = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
vfio_things          {vfio}    150     64   64    1 : tunables    0    0    0 : slabdata      2      2      0
dentry             {dentry}   8000    192   21    1 : tunables    0    0    0 : slabdata    380    380      0
"""


class TestSlabs:
    def slabs(self, vfio: int, dentry: int) -> Slabs:
        return Slabs.parse(SLABS.format(vfio=vfio, dentry=dentry))

    def test_grown_names_caches_above_the_bound(self) -> None:
        before = self.slabs(100, 7900)
        assert before.grown(self.slabs(2600, 8400), 500) == {"vfio_things": 2500}
        assert before.grown(self.slabs(600, 8400), 500) == {}
        assert before.grown(self.slabs(0, 7901), 0) == {"dentry": 1}

    def test_grown_counts_a_new_cache_from_zero(self) -> None:
        assert Slabs({}).grown(self.slabs(0, 8000), 500) == {"dentry": 8000}

    @pytest.mark.parametrize("text", ["", "slabinfo - version: 3.0\n# name\nx 1\n", "cat: no such file"])
    def test_slabs_of_an_unknown_format_are_refused(self, text: str) -> None:
        with pytest.raises(HarnessError, match="is not known here"):
            Slabs.parse(text)
