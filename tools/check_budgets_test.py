#!/usr/bin/env python3
"""check_budgets.py sums a log of compilations per module and refuses what is over twice its budget."""

import pathlib
import tempfile
import unittest

import check_budgets

LOG = """3.5 0.5 furrow/base/CMakeFiles/furrow_base.dir/error.cc.o
0.9 0.1 furrow/base/CMakeFiles/furrow_base.dir/error.cc.o
1.5 0.5 furrow/base/CMakeFiles/base_test.dir/error_test.cc.o
9.0 0.0 tests/CMakeFiles/docs_test.dir/docs_test.cc.o
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
        self.assertIn("over 2 times", check_budgets.compare({"base": 4.1}, {"base": 2.0})[0])

    def test_no_row(self):
        self.assertIn("no row", check_budgets.compare({"plan": 1.0}, {})[0])


if __name__ == "__main__":
    unittest.main()
