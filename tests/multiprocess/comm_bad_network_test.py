"""Ranks on 2 to 4 hosts whose network delays, loses and parts: a switch of our own between the hosts, below TCP.

Delay is only slow; with lost packets every result is still right; when a part of the hosts hears nothing of the others,
every rank ends in time, and its error names rank, host, operation, number and last progress: 50 times each with
FURROW_TEST_FULL=1.

usage: comm_bad_network_test.py [TEST ...]
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "testing"))
from hosts import Job, Network, endless_words, expect_error_of_silence, main, repeats  # noqa: E402

# Hosts, ranks on each, algorithm, operation.
CASES = ((2, 2, "hierarchical", "all_reduce"), (2, 2, "hierarchical_ring", "all_reduce"),
         (2, 2, "hierarchical_tree", "all_reduce"), (4, 2, "hierarchical", "reduce_scatter"),
         (3, 1, "doubling", "reduce_scatter"), (3, 1, "ring", "all_gather"), (4, 1, "direct", "all_reduce"))


def words_of(algorithm, operation, elements, steps):
    return ["--algorithm", algorithm, "--op", operation, "--order", "any", "--elements", str(elements), "--steps",
            str(steps), "--timeout", "60"]


def finish(job, algorithm):
    """The ranks check every result."""
    job.finish()
    for rank in range(len(job.processes)):
        assert job.text(rank).rstrip().endswith(f"by {algorithm}"), job.text(rank)


def test_delay():
    """An operation takes two ways through the network at least, there and back."""
    steps, way = 10, 0.02
    for hosts, per_host, algorithm, operation in CASES[::3]:
        with Network(hosts, faulty=True) as network:
            network.faults.tell(f"delay {1000 * way}")
            with Job(network, words_of(algorithm, operation, 1000, steps), per_host) as job:
                start = time.monotonic()
                finish(job, algorithm)
                seconds = time.monotonic() - start
            ways = 2 if operation == "all_reduce" and algorithm != "direct" else 1
            assert seconds > steps * ways * way, seconds
            print(f"{operation}, {algorithm}, {hosts} hosts of {per_host}: {seconds:.2f} s, at least "
                  f"{steps * ways * way:.2f}; {network.faults.tell('count')}")


def test_loss():
    """One packet in fifty is lost, and sent again by TCP."""
    for hosts, per_host, algorithm, operation in CASES:
        with Network(hosts, faulty=True) as network:
            network.faults.tell("loss 2")
            with Job(network, words_of(algorithm, operation, 200_000, 3), per_host) as job:
                finish(job, algorithm)
            frames = network.faults.tell("count")
            again = sum(network.tcp_sent_again(host) for host in range(hosts))
            assert frames["lost"] > 0 and again > 0, (frames, again)
            print(f"{operation}, {algorithm}, {hosts} hosts of {per_host}: {frames}, {again} segments sent again")


def test_partition():
    """The hosts fall into two parts."""
    timeout, times, worst = 3, repeats() // 2, 0
    for hosts, per_host, algorithm, apart in ((2, 2, "hierarchical", {1}), (3, 1, "direct", {2}), (4, 1, "direct", {2, 3}),
                                              (4, 2, "hierarchical", {1, 3})):
        for i in range(times):
            with Network(hosts, faulty=True) as network, Job(
                    network, endless_words(timeout, "--algorithm", algorithm), per_host) as job:
                job.await_running()
                start = time.monotonic()
                network.faults.tell("part " + " ".join(map(str, apart)))
                job.finish(expect=1)
                seconds = time.monotonic() - start
                worst = max(worst, seconds)
                assert seconds < timeout + 2.5, seconds
                there = {rank for rank in range(hosts * per_host) if rank // per_host in apart}
                here = set(range(hosts * per_host)) - there
                for rank in sorted(here | there):
                    expect_error_of_silence(job, rank, sorted(there if rank in here else here))
                if i == 0:
                    print(f"{algorithm}, {hosts} hosts of {per_host}, {apart} apart: {job.text(0, 1).strip()}")
    print(f"partition: {times} repetitions each; the last rank ended at worst {worst:.2f} s after the fault")


if __name__ == "__main__":
    main((test_delay, test_loss, test_partition))
