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

    def test_a_slow_machine_has_more(self):
        self.assertEqual(check_budgets.compare({"base": 7.9}, {"base": 2.0}, scale=2.0), [])
        self.assertIn("budget of 4 s", check_budgets.compare({"base": 8.1}, {"base": 2.0}, scale=2.0)[0])

    def test_the_yardstick_is_compiled(self):
        with tempfile.TemporaryDirectory() as folder:
            compiler = pathlib.Path(folder) / "compiler"
            compiler.write_text("#!/usr/bin/env bash\n[ -s \"$4\" ] && for ((i = 0; i < 20000; ++i)); do :; done\n")
            compiler.chmod(0o755)
            self.assertGreater(check_budgets.measured_yardstick(str(compiler), times=1), 0.005)
            compiler.write_text("#!/usr/bin/env bash\nexit 1\n")
            with self.assertRaises(RuntimeError):
                check_budgets.measured_yardstick(str(compiler), times=1)

    def test_no_row(self):
        self.assertIn("no row", check_budgets.compare({"plan": 1.0}, {})[0])


if __name__ == "__main__":
    unittest.main()
