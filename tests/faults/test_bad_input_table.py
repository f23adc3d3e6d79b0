"""docs/errors.md says what the program says, and the program says what it must.

`python tests/faults/bad_inputs.py --write` puts the page right.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults import bad_inputs
from faults.bad_input_cases import CASES
from faults.bad_inputs import Case
from faults.conftest import Count

ROWS = bad_inputs.rows(bad_inputs.page())
FEWEST = 60


def test_every_row_has_a_case_and_every_case_a_row() -> None:
    keys = [(case.area, case.what) for case in CASES]
    assert len(set(keys)) == len(keys)
    assert set(ROWS) == set(keys)
    assert len(keys) >= FEWEST


def listing(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.area}: {case.what}")
def test_a_bad_input(case: Case, mini: Path, count: Count) -> None:
    with bad_inputs.world(mini.parent) as place:
        made: dict[str, bytes] = {}

        def make(world: bad_inputs.World) -> list[object]:
            argv = case.make(world)
            made.update(listing(world.folder))
            return argv

        found = bad_inputs.outcome(Case(case.area, case.what, make, case.line, case.hide), place)
        assert "Traceback" not in found.text
        assert found == ROWS[case.area, case.what]
        assert found.message.isprintable()
        assert found.message
        if found.status == 2:
            assert not listing(place.folder / "test")
        after = listing(place.folder)
        for name, content in after.items():
            if made.get(name) != content:
                assert not Path(name).name.startswith("."), f"{name} was left half written"
                if name.endswith(".json"):
                    json.loads(content)
        new_results = [n for n in after.keys() - made.keys() if n.endswith("result.json")]
        assert not new_results or found.status == 0
    count("bad inputs tried")
