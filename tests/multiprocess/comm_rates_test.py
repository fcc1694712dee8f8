"""Two hosts as in comm_network_test.py, and a rate that tc sets on their interfaces: it holds the job as long as the link that
furrow emulates.  Apart, because the kernel may have no `tbf`.

usage: comm_rates_test.py [TEST ...]
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "testing"))
from hosts import Network, Skip, expect_held, main  # noqa: E402


def test_rate_of_the_interface():
    with Network(2) as network:
        refused = network.limit("200mbit")
        if refused:
            raise Skip(f"tc tbf is not to be had here ({refused}): the interface's limit was not compared")
        expect_held("tc tbf 200mbit", network, of_bound=0.9)  # of the first bytes it lets a burst pass


if __name__ == "__main__":
    main((test_rate_of_the_interface,))
