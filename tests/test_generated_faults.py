"""Faults made from C lines: their rules, their order, and the kernel that has many of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from small_kernel import SmallKernel

from harness.kernel.one_object import Change, OneObject, objects
from harness.mutants.generate import combine, line_rules, statement_rules
from harness.mutants.generate.c_source import Source
from harness.mutants.generate.coverage import Coverage, Covered
from harness.mutants.generate.fault import Fault
from harness.mutants.generate.pool import Pool, _with_continued, in_order

FILE = "drivers/x/x.c"
DRIVER = """\
static int x_open(struct x *x, void __user *arg)
{
	int ret;

	if (!x->ready)
		return -ENODEV;

	mutex_lock(&x->lock);
	ret = x_start(x,
			arg);
	x_notify(x);
	mutex_unlock(&x->lock);
	return ret;
}

static void x_move(struct x *x)
{
	struct y *y;

	list_for_each_entry(y, &x->all, elm)
		y_move(y);
}
"""
# Where no kernel is: what the switch needs of one.
STUBS = """\
#define __ro_after_init
#define __init
#define early_param(name, f) int (*setup)(char *) = f;
#include <stdlib.h>
static int kstrtoint(char *text, int base, int *result) { *result = strtol(text, 0, base); return 0; }
"""
PROGRAM = """\
#include <stdio.h>

static int twice(int a)
{
	int b = a;

	b += a;
	return b;
}

static int
line(void)
{
	int now = __LINE__;

	return now;
}

int sum(int a, int b)
{
	if (a < 0)
		return -1;
	return twice(a) + b;
}

int main(int count, char **words)
{
	setup(words[1]);
	printf("%d %d %d\\n", sum(2, 3), sum(-2, 3), line());
	return 0;
}
"""


def faults(text: str, lines: set[int] | None = None) -> list[Fault]:
    """Return all faults of a file, of these lines if they are given."""
    source = Source(text.encode())
    wanted = set(range(1, text.count("\n") + 1)) if lines is None else lines
    return [
        *statement_rules.faults(FILE, source, wanted),
        *line_rules.faults(FILE, source, wanted),
    ]


def changes(text: str, rule: str) -> list[str]:
    return [fault.change for fault in faults(text) if fault.rule == rule]


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("another errno", "'return -ENODEV;' became 'return -EINVAL;'"),
        ("success instead of an error", "'return -ENODEV;' became 'return 0;'"),
        ("negate a condition", "'if (!x->ready)' became 'if (!(!x->ready))'"),
        ("a condition never true", "'if (!x->ready)' became 'if (0 && (!x->ready))'"),
        ("go on instead of leaving", "'return -ENODEV;' became '{ }'"),
        ("drop a statement", "'ret = x_start(x, arg);' became '{ }'"),
        ("drop a notification", "'x_notify(x);' became '{ }'"),
        ("drop a lock", "'mutex_lock(&x->lock);' became '{ }'"),
        ("drop an unlock", "'mutex_unlock(&x->lock);' became '{ }'"),
        (
            "swap two statements",
            "'ret = x_start(x, arg); x_notify(x);' became 'x_notify(x); ret = x_start(x, arg);'",
        ),
        (
            "a list element skipped",
            "'list_for_each_entry(y, &x->all, elm)' became 'list_for_each_entry(y, &x->all, elm) "
            "if (!list_is_first(&y->elm, &x->all))'",
        ),
    ],
)
def test_rule_changes_kernel_code(rule: str, change: str) -> None:
    assert change in changes(DRIVER, rule)


def test_lock_is_dropped_with_its_unlock() -> None:
    (change,) = changes(DRIVER, "drop a lock and its unlock")
    assert "mutex" not in change.partition(" became ")[2]


def test_lock_for_write_is_taken_for_read() -> None:
    text = "void f(struct x *x)\n{\n\tdown_write(&x->sem);\n\tg(x);\n\tup_write(&x->sem);\n}\n"
    (change,) = changes(text, "take the other lock")
    assert change.endswith("became 'down_read(&x->sem); g(x); up_read(&x->sem);'")


def test_fault_keeps_the_number_of_lines() -> None:
    lines = Source(DRIVER.encode()).lines
    for fault in faults(DRIVER):
        assert fault.apply(lines).count("\n") == DRIVER.count("\n"), fault


def test_faults_change_only_the_wanted_lines() -> None:
    found = faults(DRIVER, {9, 11})
    assert {fault.first for fault in found} == {11}  # the statement of line 9 goes on in line 10
    assert faults(DRIVER, {9, 10})


def test_condition_of_a_macro_with_a_body_is_no_statement() -> None:
    text = "void f(struct x *x)\n{\n\tlist_for_each(a, b) {\n\t\tg(a);\n\t}\n}\n"
    assert changes(text, "drop a statement") == ["'g(a);' became '{ }'"]


def test_hostile_file_is_read_to_its_end() -> None:
    deep = 5000  # more than Python may call itself
    text = "int f(int a)\n{\n\treturn " + "(" * deep + "a" + ")" * deep + ";\n}\n"
    assert changes(text, "another errno") == []
    text = "int f(int a_size)\n{\n\treturn g(" + "a_size + " * 100_000 + "0);\n}\n"
    assert changes(text, "off by one") == []


def test_fault_of_a_hostile_file_has_a_plain_name() -> None:
    fault = Fault("drivers/$(shell id) x.c", 1, 1, "f", "", "a\n", "b\n")
    assert re.fullmatch(r"[a-z0-9-]+", fault.name.replace(".", "-").replace("_", "-")), fault.name


def test_rules_are_regular_expressions() -> None:
    assert line_rules.check() == []


def test_order_gives_each_line_a_fault_before_a_second() -> None:
    found = faults(DRIVER)
    ordered = in_order(found, "7")
    lines = [fault.first for fault in ordered]
    distinct = len(set(lines))
    assert len(set(lines[:distinct])) == distinct
    assert [one.name for one in in_order(list(reversed(found)), "7")] == [one.name for one in ordered]
    assert [one.name for one in in_order(found, "8")] != [one.name for one in ordered]


def test_statement_that_ran_has_all_of_its_lines() -> None:
    source = Source(DRIVER.encode())
    added = frozenset(range(1, 11))
    assert _with_continued(source, added, frozenset({9, 12})) == {9, 10, 12}
    assert _with_continued(source, added, frozenset({11})) == {11}


def test_fault_has_the_scenarios_of_its_whole_statement(tmp_path: Path) -> None:
    tree = SmallKernel(tmp_path).tree({FILE: DRIVER})
    lines = {9: Covered(2, ("one", "two")), 11: Covered(1, ("three",))}
    pool = Pool(tree, {}, Coverage("good", tmp_path, {FILE: lines}), "1")
    found = {
        line: pool.scenarios(Fault(FILE, line, line, "x_open", "", "a\n", "b\n")) for line in (9, 10, 11, 12)
    }
    assert found == {9: ["one", "two"], 10: ["one", "two"], 11: ["three"], 12: []}
    assert all(pool.scenarios(one) for one in pool.faults)


# -- one kernel with many faults ---------------------------------------------------------


def outputs(tmp_path: Path, text: str, numbers: list[int]) -> list[str]:
    """Compile a program with switches; return what it prints for each number."""
    program = tmp_path / "program"
    (tmp_path / "x.c").write_text(STUBS + '#line 1 "x.c"\n' + text)
    words = ["gcc", "-Wall", "-Werror", "-o", str(program), str(tmp_path / "x.c")]
    subprocess.run(words, check=True)
    argv = [[str(program), str(number)] for number in numbers]
    return [subprocess.run(one, check=True, capture_output=True, text=True).stdout.strip() for one in argv]


def test_combined_file_has_one_fault_at_a_time(tmp_path: Path) -> None:
    source = Source(PROGRAM.encode())
    wanted = [
        next(one for one in faults(PROGRAM) if one.change == change)
        for change in (
            "'b += a;' became 'b -= a;'",
            "'b += a;' became '{ }'",
            "'if (a < 0)' became 'if (!(a < 0))'",
            "'return twice(a) + b;' became 'return twice(a) - b;'",
            "'return now;' became '{ }'",
        )
    ]
    assert all(combine.can_combine(source, one) for one in wanted)
    numbers = {fault.name: number for number, fault in enumerate(wanted[:4], 1)}
    text = combine._with_copies("x.c", source, wanted[:4], numbers)
    # The line of line() is that of the file, whatever stands before it.
    assert outputs(tmp_path, text, [0, 1, 2, 3, 4]) == [
        "7 -1 14",
        "3 -1 14",
        "5 -1 14",
        "-1 -1 14",
        "1 -1 14",
    ]


def test_combined_function_keeps_its_lines(tmp_path: Path) -> None:
    source = Source(PROGRAM.encode())
    now = "\tint now = __LINE__;\n"
    one = Fault(FILE, 14, 14, "line", "test", now, now.replace("_", "-_", 1))
    text = combine._with_copies("x.c", source, [one], {one.name: 1})
    assert outputs(tmp_path, text, [0, 1]) == ["7 -1 14", "7 -1 -14"]


def test_combined_patch_applies(tmp_path: Path) -> None:
    source = Source(DRIVER.encode())
    found = faults(DRIVER)
    patch = combine.combine({FILE: source}, found)
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    path.write_text(DRIVER)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "apply"], input=patch.patch, cwd=tmp_path, check=True)
    text = path.read_text()
    assert text.count("case ") == len(found) == len(patch.numbers)


def test_function_without_names_of_parameters_is_not_combined() -> None:
    text = "static int f(int a, ...)\n{\n\tg(a);\n\treturn 0;\n}\n"
    source = Source(text.encode())
    found = faults(text)
    assert found
    assert not any(combine.can_combine(source, one) for one in found)


# -- the check of objects ----------------------------------------------------------------


def one_object(tmp_path: Path, text: str) -> OneObject:
    """Return a C file that compiles alone, as prepare() makes it of a kernel's."""
    path = tmp_path / "x.c"
    path.write_text(text)
    argv = ["gcc", "-E", "-fdirectives-only", str(path)]
    whole = subprocess.run(argv, check=True, capture_output=True).stdout
    return OneObject("gcc", ("-O2",), whole, str(path))


def test_objects_tell_what_a_change_does(tmp_path: Path) -> None:
    text = (
        "#include <stddef.h>\n#define ONE 1\nint f(int a)\n{\n\treturn a + ONE;\n}\n#if 0\nint g;\n#endif\n"
    )
    one = one_object(tmp_path, text)
    line = "\treturn a + ONE;\n"
    found = objects(
        one,
        {
            "unchanged": None,
            "same": Change(5, 5, line, "\treturn ONE + a; /* the same */\n"),
            "other": Change(5, 5, line, "\treturn a - ONE;\n"),
            "broken": Change(5, 5, line, "\treturn a +;\n"),
            "hidden": Change(8, 8, "int g;\n", "int h;\n"),
        },
        tmp_path / "work",
        tmp_path / "log",
    )
    assert found.keys() == {"unchanged", "same", "other"}
    assert found["same"] == found["unchanged"] != found["other"]
    assert one.changed(Change(8, 8, "int g;\n", "int h;\n")) is None
    assert not (tmp_path / "work").exists()
