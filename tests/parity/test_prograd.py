"""Both sides of ProGrad's rule are among the recorded cases."""

from __future__ import annotations

from parity import common
from parity.methods.prograd import SPEC


def test_gradients_conflict_in_some_cases_and_agree_in_others() -> None:
    """Where the first gradients conflict, the update is not the cross-entropy's alone."""
    conflicts = {}
    for name, case in SPEC.cases.items():
        if case.clip == "vit_b16":  # its terms were not differentiated alone
            continue
        golden = common.golden_case("prograd", name)
        domain, general = golden["grad/ce/ctx"], golden["grad/kl/ctx"]
        conflicts[name] = bool((domain * general).sum() < 0)
        changed = common.relative_difference(golden["grad/ctx"], domain) > 1e-3
        assert changed == conflicts[name], name
    assert sum(conflicts.values()) >= 5
    assert sum(not one for one in conflicts.values()) >= 5
