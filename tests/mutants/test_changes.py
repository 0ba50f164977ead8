"""What counts as a mutant, and that the tables of guards and of equivalents speak of what is there."""

from __future__ import annotations

import ast

from tests.mutants.__main__ import ROOT, equivalents
from tests.mutants.changes import mutants_of
from tests.mutants.guards import GUARDS

TEXT = '''"""Of no interest: 1 < 2."""
LIMIT: int = 3


def work(a: int, b: float = 0.5) -> dict[str, int]:
    """Not this text."""
    found = a + 1
    if not a < b or found:
        found = 2
        print("é", found == 1, end="")
    assert all(zip([a], [b], strict=True))
    if a > 9:
        raise ValueError(f"{a + 1}")
    return {"a": mix(a, 4), "b": found}
'''


def test_each_change_is_named_and_makes_another_program_of_as_many_lines() -> None:
    found = {mutant.name.removeprefix("x.py:"): mutant for mutant in mutants_of("x.py", TEXT)}
    assert {name: mutant.change for name, mutant in found.items()} == {
        "2:constant": "3 -> 4",
        "5:constant": "0.5 -> 1.5",
        "7:deletion": "found = a + 1 -> pass",
        "7:sign": "a + 1 -> (a - 1)",
        "7:constant": "1 -> 2",
        "8:not": "not a < b or found -> (not (not a < b or found))",
        "8:and-or": "not a < b or found -> (not a < b and found)",
        "8:not-2": "not a < b -> (a < b)",
        "8:comparison": "a < b -> (a <= b)",
        "9:deletion": "found = 2 -> pass",
        "9:constant": "2 -> 3",
        "10:deletion": 'print("é", found == 1, end="") -> pass',
        "10:comparison": "found == 1 -> (found != 1)",
        "10:constant": "1 -> 2",
        "12:comparison": "a > 9 -> (a >= 9)",
        "12:constant": "9 -> 10",
        "13:deletion": 'raise ValueError(f"{a + 1}") -> pass',
        "14:return": 'return {"a": mix(a, 4), "b": found} -> return None',
        "14:key": '{"a": mix(a, 4), "b": found} -> ({\'b\': found})',
        "14:key-2": '{"a": mix(a, 4), "b": found} -> ({\'a\': mix(a, 4)})',
        "14:argument": "mix(a, 4) -> (mix(4))",
        "14:argument-2": "mix(a, 4) -> (mix(a))",
        "14:constant": "4 -> 5",
    }
    programs = {ast.dump(ast.parse(mutant.text)) for mutant in found.values()}
    assert len(programs) == len(found)
    assert ast.dump(ast.parse(TEXT)) not in programs
    assert {len(mutant.text.splitlines()) for mutant in found.values()} == {len(TEXT.splitlines())}


def test_guards_and_verdicts_are_of_what_is_there() -> None:
    for file, tests in GUARDS.items():
        assert tests, file
        for name in (file, *tests):
            assert (ROOT / name).is_file(), name
    there = {mutant.identity for file in GUARDS for mutant in mutants_of(file, (ROOT / file).read_text())}
    assert equivalents() <= there, "a verdict of a line or change that is gone"
