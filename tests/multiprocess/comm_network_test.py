"""Ranks on hosts of their own: network namespaces joined by veth pairs to a bridge in one more.

What crossed the wire is what the interfaces counted; a rate set by tc holds the job, and the emulated link holds it as
long; a link that goes down ends every rank, naming the one that is gone: 100 times with FURROW_TEST_FULL=1.

usage: comm_network_test.py [TEST ...]
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

RANK = os.path.join(os.environ["FURROW_BUILD_DIR"], "test_bin", "comm_rank")
PREFIX = f"fw{os.getpid()}"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class Network:
    """`count` hosts at 10.77.0.1, .2, ... behind one bridge."""

    def __init__(self, count):
        self.hosts = [f"{PREFIX}h{i}" for i in range(count)]
        self.switch = f"{PREFIX}s"

    def __enter__(self):
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for i, host in enumerate(self.hosts):
            ip("netns", "add", host)
            ip("-n", host, "link", "add", "net0", "type", "veth", "peer", "name", f"port{i}", "netns", self.switch)
            ip("-n", self.switch, "link", "set", f"port{i}", "master", "bridge", "up")
            ip("-n", host, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "net0")
            ip("-n", host, "link", "set", "net0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        for name in [*self.hosts, self.switch]:
            ip("netns", "del", name, check=False)

    def limit(self, rate):
        for host in self.hosts:
            result = subprocess.run(
                ["tc", "-n", host, "qdisc", "add", "dev", "net0", "root", "tbf", "rate", rate, "burst", "64kb",
                 "latency", "200ms"], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                return result.stderr.strip()
        return ""

    def counter(self, host, name):
        text = ip("netns", "exec", self.hosts[host], "cat", f"/sys/class/net/net0/statistics/{name}").stdout
        return int(text)


class Job:
    """One process per rank, `per_host` of them on each host."""

    def __init__(self, network, words, per_host=1):
        self.processes, self.files = [], []
        size = len(network.hosts) * per_host
        for rank in range(size):
            environment = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="10.77.0.1",
                               MASTER_PORT="29500", FURROW_JOB_TOKEN="secret")
            out, err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
            self.files.append((out, err))
            self.processes.append(subprocess.Popen(
                ["ip", "netns", "exec", network.hosts[rank // per_host], RANK, *words], env=environment, stdout=out,
                stderr=err))

    def text(self, rank, which=0):
        self.files[rank][which].seek(0)
        return self.files[rank][which].read()

    def await_running(self):
        deadline = time.monotonic() + 60
        while not all("running" in self.text(rank) for rank in range(len(self.processes))):
            if time.monotonic() > deadline or any(p.poll() is not None for p in self.processes):
                raise AssertionError("not running: " + self.text(0, 1))
            time.sleep(0.01)

    def finish(self, expect=0):
        for rank, process in enumerate(self.processes):
            status = process.wait(timeout=120)
            assert (status == 0) == (expect == 0), f"rank {rank} ended with {status}: {self.text(rank, 1)}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def wire(text):
    """Bytes that a rank says it sent and received, frames included."""
    sent, received, sent_over, received_over = map(
        int, re.search(r"done sent (\d+) received (\d+) overhead (\d+) (\d+)", text).groups())
    return sent + sent_over, received + received_over


def test_bytes_reconcile():
    with Network(3) as network:
        elements, steps = 1_000_000, 10
        with Job(network, ["--elements", str(elements), "--steps", str(steps)]) as job:
            job.finish()
            for host in range(3):
                sent, received = wire(job.text(host))
                bound = steps * elements * 4 * 4 // 3
                assert bound <= received <= 1.01 * bound, (received, bound)
                for ours, name in ((sent, "tx_bytes"), (received, "rx_bytes")):
                    counted = network.counter(host, name)
                    # TCP and IP headers, acknowledgements of the other direction, the store: a few percent.
                    assert ours < counted < 1.06 * ours + 200_000, (name, ours, counted)
                    print(f"host {host} {name}: {counted} counted, {ours} sent and received by us")


def timed(network, words):
    start = time.monotonic()
    with Job(network, words) as job:
        job.finish()
        return time.monotonic() - start, job.text(0)


def test_rates():
    """At 200 Mbit/s an all-reduce of 8 MB between 2 hosts takes 0.32 s: the interface's limit and the emulated one."""
    words = ["--elements", "2000000", "--steps", "3"]
    least = 3 * 8e6 * 8 / 200e6
    with Network(2) as network:
        seconds, text = timed(network, [*words, "--throttle", "200Mbit"])
        print(f"emulated 200Mbit: {seconds:.2f} s, at least {least:.2f}")
        assert "done" in text and least < seconds < 3 * least + 2, seconds
        refused = network.limit("200mbit")
        if refused:
            print(f"tc tbf is not to be had here ({refused}): the interface's limit was not compared")
            return
        seconds, text = timed(network, words)
        print(f"tc tbf 200mbit: {seconds:.2f} s")
        assert "done" in text and 0.9 * least < seconds < 3 * least + 2, seconds


def test_hierarchical():
    with Network(2) as network, Job(network, ["--algorithm", "hierarchical", "--steps", "20", "--elements", "100000"],
                                    per_host=2) as job:
        job.finish()
        for rank in range(4):
            assert f"local {rank % 2} of 2 node {rank // 2}" in job.text(rank), job.text(rank)


def repeats():
    """Of the fault, as of those of comm_faults_test.cc."""
    full = os.environ.get("FURROW_TEST_FULL") == "1"
    return int(os.environ.get("FURROW_TEST_REPEATS", "100" if full else "2"))


def test_link_down():
    worst = 0
    with Network(3) as network:
        for i in range(repeats()):
            lost = (i + 1) % 3
            with Job(network, ["--steps", "1000000000", "--timeout", "2"]) as job:
                job.await_running()
                start = time.monotonic()
                ip("-n", network.switch, "link", "set", f"port{lost}", "down")
                job.finish(expect=1)
                seconds = time.monotonic() - start
                worst = max(worst, seconds)
                assert seconds < 4.5, seconds
                for rank in range(3):
                    if rank == lost:
                        continue
                    assert f"rank {lost} (host " in job.text(rank, 1), job.text(rank, 1)
                    assert "all_reduce 'gradients' #" in job.text(rank, 1), job.text(rank, 1)
                ip("-n", network.switch, "link", "set", f"port{lost}", "up")
            if i == 0:
                print(f"link of rank {lost} down: {job.text((lost + 1) % 3, 1).strip()}")
    print(f"link down: {repeats()} repetitions; the last rank ended at worst {worst:.2f} s after the fault")


def main():
    if os.geteuid() != 0:
        skip("network namespaces need root")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        skip("iproute2 is not installed")
    with Network(1) as network:
        if network.hosts[0] not in ip("netns", "list").stdout:
            skip("network namespaces are not to be had here")
    for test in (test_bytes_reconcile, test_rates, test_hierarchical, test_link_down):
        if sys.argv[1:] and test.__name__ not in sys.argv[1:]:
            continue
        test()
        print(f"passed: {test.__name__}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        skip(f"'{' '.join(error.cmd)}' failed: {error.stderr.strip()}")
