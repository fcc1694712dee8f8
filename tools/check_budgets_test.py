#!/usr/bin/env python3
"""check_budgets.py sums a ninja log per module and refuses what is over twice its budget."""

import pathlib
import tempfile
import unittest

import check_budgets

LOG = """# ninja log v5
0\t4000\t1\tfurrow/base/CMakeFiles/furrow_base.dir/error.cc.o\tabc
4000\t5000\t2\tfurrow/base/CMakeFiles/furrow_base.dir/error.cc.o\tabc
0\t2000\t3\tfurrow/base/CMakeFiles/base_test.dir/error_test.cc.o\tabc
0\t9000\t3\tlib/libfurrow.so\tabc
"""


class CheckBudgets(unittest.TestCase):
    def test_last_entry_of_an_output_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log"
            log.write_text(LOG)
            self.assertEqual(check_budgets.measured(log), {"base": 3.0})

    def test_within_twice_the_budget(self):
        self.assertEqual(check_budgets.compare({"base": 3.9}, {"base": 2.0}), [])

    def test_over(self):
        spent = {"base": 4.1, "plan": 1.0}
        self.assertIn("base: 4 s, over 2 times", check_budgets.compare(spent, {"base": 2.0, "plan": 10.0})[0])

    def test_a_slow_machine_is_not_a_slow_module(self):
        allowed = {"base": 2.0, "plan": 10.0, "nn": 10.0}
        self.assertEqual(check_budgets.compare({"base": 8.0, "plan": 40.0, "nn": 38.0}, allowed), [])
        self.assertEqual(len(check_budgets.compare({"base": 40.0, "plan": 40.0, "nn": 40.0}, allowed)), 1)

    def test_no_row(self):
        self.assertIn("no row", check_budgets.compare({"plan": 1.0}, {})[0])


if __name__ == "__main__":
    unittest.main()
