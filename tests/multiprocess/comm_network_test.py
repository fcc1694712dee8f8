"""Ranks on hosts of their own: network namespaces joined by veth pairs to a bridge in one more.

What crossed the wire is what the interfaces counted, at the bound, on 2 to 4 hosts; training across hosts has the bits of
one process; the emulated link holds the job as long as its rate says; torchrun and mpirun start ranks on two hosts; a link
that goes down ends every rank, naming the one that is gone: 100 times with FURROW_TEST_FULL=1.

usage: comm_network_test.py [TEST ...]
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "testing"))
from host_training import FURROW, Training  # noqa: E402
from hosts import (RANK, Job, Network, Skip, endless_words, expect_error_of_silence, expect_held, ip, main,  # noqa: E402
                   on, repeats)


def wire(text):
    """Bytes that a rank says it sent and received, frames included."""
    sent, received, sent_over, received_over = map(
        int, re.search(r"done sent (\d+) received (\d+) overhead (\d+) (\d+)", text).groups())
    return sent + sent_over, received + received_over


def expect_counted(network, host, name, ours):
    """Beside ours the interface counts TCP and IP headers, acknowledgements of the other direction, the store: a few
    percent."""
    counted = network.counter(host, name)
    assert ours < counted < 1.06 * ours + 200_000, (name, ours, counted)
    return counted


def test_bytes_reconcile():
    """One rank a host: what each says it sent and received is what its interface counted, and the bound."""
    elements, steps = 1_000_000, 10
    for hosts, operation, shares in ((3, "all_reduce", 2), (4, "all_reduce", 2), (3, "reduce_scatter", 1),
                                     (4, "reduce_scatter", 1), (3, "all_gather", 1), (4, "all_gather", 1)):
        words = ["--op", operation, "--elements", str(elements), "--steps", str(steps)]
        with Network(hosts) as network, Job(network, words) as job:
            job.finish()
            bound = steps * 4 * elements * shares * (hosts - 1) // hosts
            for host in range(hosts):
                sent, received = wire(job.text(host))
                assert 0.9999 * bound <= received <= 1.01 * bound, (operation, received, bound)
                counted = [expect_counted(network, host, "tx_bytes", sent),
                           expect_counted(network, host, "rx_bytes", received)]
                print(f"{operation}, host {host} of {hosts}: {counted} counted, {[sent, received]} by us, bound {bound}")


def test_emulated_rate():
    """At 200 Mbit/s an all-reduce of 8 MB between 2 hosts takes 0.32 s: comm_rates_test.py sets the interface's limit."""
    with Network(2) as network:
        expect_held("emulated 200Mbit", network, "--throttle", "200Mbit")


def test_hierarchical():
    """A host receives over its interface what one rank would, however many ranks it has; by `direct` each of them does.
    The ranks check their results."""
    elements, steps = 500_000, 5
    for hosts, algorithm, operation, times in ((2, "hierarchical", "all_reduce", 2), (3, "hierarchical", "all_reduce", 2),
                                               (4, "hierarchical", "all_reduce", 2),
                                               (4, "hierarchical", "reduce_scatter", 1),
                                               (4, "hierarchical", "all_gather", 1), (4, "direct", "all_reduce", 4)):
        words = ["--algorithm", algorithm, "--op", operation, "--steps", str(steps), "--elements", str(elements)]
        with Network(hosts) as network, Job(network, words, per_host=2) as job:
            job.finish()
            for rank in range(2 * hosts):
                assert f"local {rank % 2} of 2 node {rank // 2}" in job.text(rank), job.text(rank)
                assert f" by {algorithm}" in job.text(rank), job.text(rank)
            bound = times * steps * 4 * elements * (hosts - 1) // hosts
            counted = [expect_counted(network, host, "rx_bytes", bound) for host in range(hosts)]
            print(f"{operation}, {algorithm}, {hosts} hosts of 2 ranks: {counted} received, {bound} at least")


def test_uneven_hosts():
    """Four hosts of two, two, one and one rank: every operation, by what the table chooses."""
    for operation in ("all_reduce", "reduce_scatter", "all_gather"):
        words = ["--op", operation, "--steps", "5", "--elements", "300001"]
        with Network(4) as network, Job(network, words, per_host=[2, 2, 1, 1]) as job:
            job.finish()
            for rank, place in enumerate(("0 of 2 node 0", "1 of 2 node 0", "0 of 2 node 1", "1 of 2 node 1",
                                          "0 of 1 node 2", "0 of 1 node 3")):
                assert f"local {place}" in job.text(rank), job.text(rank)


LOCALHOST = "127.0.0.1 localhost\n::1 localhost\n"


def join_by_name(names):
    """Two ranks on each of two hosts some way apart, which know rank 0's host as `zero`, each by its own list."""
    with Network(2, faulty=True) as network:
        network.faults.tell("delay 5")
        with network.names([LOCALHOST + text for text in names]):
            with Job(network, ["--steps", "3"], per_host=2, variables={"MASTER_ADDR": "zero"}) as job:
                job.finish()


def test_own_name_on_loopback():
    """Debian gives a host's own name the address 127.0.1.1: rank 0's host must be found by the others all the same, and so
    must be the data ports of its ranks."""
    join_by_name(["127.0.1.1 zero\n", "10.77.0.1 zero\n"])


def test_a_name_with_a_dead_address():
    """Of rank 0's two addresses the one that is tried first answers nothing: it is nearer by its bits to 10.77.0.2."""
    join_by_name(["10.77.0.1 zero\n", "10.77.0.3 zero\n10.77.0.1 zero\n"])


def test_ipv6_alone():
    """Hosts that have no IPv4 but for themselves, with and without an interface that only one of them has."""
    with Network(2) as network:
        for i, host in enumerate(network.hosts):
            ip("-n", host, "addr", "flush", "dev", "net0")
            ip("-n", host, "addr", "add", f"fd00::{i + 1}/64", "dev", "net0", "nodad")
        for words in ([], ["--interface", "ib0,net0"]):
            with Job(network, ["--steps", "3", *words], per_host=2, variables={"MASTER_ADDR": "fd00::1"}) as job:
                job.finish()


def test_train():
    """`furrow train`, a rank on each of two hosts and two on each: the model of one process."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(folder, steps=20)
        for run, more in (("one", []), ("other", ["--debug.seed", "9"])):
            training.alone(training.words(run, *more))
        assert training.model("one") != training.model("other"), "control: another seed"
        for per_host in (1, 2):
            run = f"hosts{per_host}"
            with Network(2) as network:
                before = network.counter(1, "rx_bytes")
                with Job(network, training.words(run), per_host, FURROW) as job:
                    job.finish()
                print(f"trained on 2 hosts, {per_host} ranks each: host 1 received "
                      f"{network.counter(1, 'rx_bytes') - before} bytes")
            assert training.model(run) == training.model("one"), per_host


def run_launchers(commands):
    """One per host, with what they print together."""
    with tempfile.TemporaryFile("w+") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) for command in commands]
        try:
            statuses = [process.wait(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        log.seek(0)
        text = log.read()
    assert statuses == [0] * len(commands), f"{statuses}: {text}"
    return text


LAUNCHED = ["--algorithm", "hierarchical", "--elements", "250000", "--steps", "4"]


def launch(launcher, commands):
    """Two ranks on each of two hosts, over a network that delays and loses: `commands` of it, one per host. What they
    print."""
    with Network(2, faulty=True) as network:
        network.faults.tell("delay 2")
        network.faults.tell("loss 1")
        text = run_launchers(commands(network))
        expect_launched(network, launcher, text)
    return text


def expect_launched(network, launcher, text):
    """The ranks are where they should be, and their messages went over the interface."""
    for rank in range(4):
        assert f"joined rank {rank} of 4 launcher {launcher} local {rank % 2} of 2 node {rank // 2}" in text, text
    assert text.count("by hierarchical") == 4, text
    bound = 4 * 4 * 250_000
    counted, frames = network.counter(1, "rx_bytes"), network.faults.tell("count")
    assert counted > bound and frames["lost"] > 0, (counted, bound, frames)
    print(f"{launcher} on 2 hosts of 2 ranks: {counted} received, {bound} at least; {frames}")


def test_torchrun():
    """An agent of torchrun on each of two hosts, which meet over the network."""
    torchrun = os.path.join(os.path.dirname(os.environ["FURROW_PYTHON"]), "torchrun")
    if not os.path.exists(torchrun):
        raise Skip("torchrun is not installed: tools/requirements.txt")
    meet = ["--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "10.77.0.1", "--master-port", "29600"]
    text = launch("torchrun", lambda network: [on(host, torchrun, *meet, "--node-rank", str(i), "--no-python", RANK, *LAUNCHED)
                                        for i, host in enumerate(network.hosts)])
    assert text.count("give every rank the same secret FURROW_JOB_TOKEN") == 1, text


def test_mpirun():
    """mpirun on one of two hosts; where it would call ssh, its daemon is started in the other's namespace."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise Skip("mpirun is not installed: openmpi-bin")
    with tempfile.TemporaryDirectory() as folder:
        agent = os.path.join(folder, "agent")
        options = {"plm_rsh_agent": agent, "oob_tcp_if_include": "net0", "btl_tcp_if_include": "net0"}
        words = [word for item in options.items() for word in ("--mca", *item)]

        def command(network):
            start = shlex.join(on(network.hosts[1], "sh", "-c"))
            with open(agent, "w") as file:
                file.write(f'#!/bin/sh\n# In place of ssh: HOST COMMAND\nshift\nexec {start} "$*"\n')
            os.chmod(agent, 0o755)
            return [on(network.hosts[0], mpirun, "--allow-run-as-root", "--oversubscribe", *words, "-x",
                       "MASTER_ADDR=10.77.0.1", "--host", "10.77.0.1:2,10.77.0.2:2", RANK, *LAUNCHED)]

        launch("openmpi", command)


def test_link_down():
    worst = 0
    with Network(3) as network:
        for i in range(repeats()):
            lost = (i + 1) % 3
            with Job(network, endless_words(2)) as job:
                job.await_running()
                start = time.monotonic()
                ip("-n", network.switch, "link", "set", f"port{lost}", "down")
                job.finish(expect=1)
                seconds = time.monotonic() - start
                worst = max(worst, seconds)
                assert seconds < 4.5, seconds
                others = [rank for rank in range(3) if rank != lost]
                for rank in others:
                    expect_error_of_silence(job, rank, [lost])
                expect_error_of_silence(job, lost, others)
                ip("-n", network.switch, "link", "set", f"port{lost}", "up")
            if i == 0:
                print(f"link of rank {lost} down: {job.text((lost + 1) % 3, 1).strip()}")
    print(f"link down: {repeats()} repetitions; the last rank ended at worst {worst:.2f} s after the fault")


if __name__ == "__main__":
    main((test_bytes_reconcile, test_emulated_rate, test_hierarchical, test_uneven_hosts, test_own_name_on_loopback,
          test_a_name_with_a_dead_address, test_ipv6_alone, test_train, test_torchrun, test_mpirun, test_link_down))
