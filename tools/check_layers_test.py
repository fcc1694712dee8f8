#!/usr/bin/env python3
"""check_layers.py accepts a clean tree and names each kind of violation."""

import pathlib
import tempfile
import unittest

import check_layers

LAYERS = """# comment
base : 
plan : base
# --- libtorch below this line ---
tensor : base
"""
CLEAN = {
    "furrow/base/a.h": "#pragma once\n",
    "furrow/plan/p.h": '#include "furrow/base/a.h"\n',
    "furrow/tensor/t.cc": '#include <ATen/ATen.h>\n#include "furrow/tensor/t_torch.h"\n',
    "furrow/tensor/t_torch.h": "#include <ATen/ATen.h>\n",
}


class CheckLayers(unittest.TestCase):
    def violations(self, extra, layers=LAYERS):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**CLEAN, **extra, "tools/layers.txt": layers}.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check_layers.check(root)

    def expect(self, extra, message, layers=LAYERS):
        errors = self.violations(extra, layers)
        self.assertEqual(len(errors), 1, errors)
        self.assertIn(message, errors[0])

    def test_clean(self):
        self.assertEqual(self.violations({}), [])

    def test_upward_include(self):
        self.expect({"furrow/base/b.cc": '#include "furrow/plan/p.h"\n'}, "furrow/base/b.cc:1: base may not include plan")

    def test_libtorch_above_the_line(self):
        self.expect({"furrow/plan/x.cc": "#include <torch/torch.h>\n"}, "plan is above the libtorch line")

    def test_libtorch_in_a_plain_header(self):
        self.expect({"furrow/tensor/x.h": "#include <c10/core/Device.h>\n"}, "x.h is not named *_torch.h")

    def test_libtorch_through_our_header(self):
        self.expect({"furrow/tensor/x.h": '#include "furrow/tensor/t_torch.h"\n'}, "brings libtorch into")

    def test_heavy_header(self):
        self.expect({"furrow/plan/x.h": "#include <nlohmann/json.hpp>\n"}, "belongs in a .cc file")

    def test_unknown_module(self):
        self.expect({"furrow/plan/x.cc": '#include "furrow/serve/s.h"\n'}, "unknown module serve")

    def test_missing_header(self):
        self.expect({"furrow/plan/x.cc": '#include "furrow/base/none.h"\n'}, "does not exist")

    def test_folder_without_row(self):
        self.expect({"furrow/net/n.h": "#pragma once\n"}, "furrow/net: no row")

    def test_row_without_folder(self):
        self.expect({}, "no folder furrow/nn", LAYERS + "nn : tensor\n")

    def test_row_names_a_later_row(self):
        self.expect({}, "not a row above it", LAYERS.replace("base : \n", "base : plan\n", 1))

    def test_header_cycle(self):
        self.expect({"furrow/base/x.h": '#include "furrow/base/y.h"\n', "furrow/base/y.h": '#include "furrow/base/x.h"\n'},
                    "include each other: furrow/base/x.h -> furrow/base/y.h -> furrow/base/x.h")


if __name__ == "__main__":
    unittest.main()
