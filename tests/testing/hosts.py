"""Hosts on one machine: network namespaces joined by veth pairs, to a bridge or to a switch that misbehaves on demand,
and jobs of one process per rank on them. For tests that run as root.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

BIN = os.path.join(os.environ["FURROW_BUILD_DIR"], "test_bin")
RANK = os.path.join(BIN, "comm_rank")
PREFIX = f"fw{os.getpid()}"


class Skip(Exception):
    """What a test needs is not to be had here."""


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def on(host, *words):
    """The command that runs `words` on a host, which has a name of its own."""
    named = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
    return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", named, host, *words]


class Network:
    """`count` hosts at 10.77.0.1, .2, ... behind one bridge, or behind a FaultSwitch where `faulty`."""

    def __init__(self, count, faulty=False):
        self.hosts = [f"{PREFIX}h{i}" for i in range(count)]
        self.switch = f"{PREFIX}s"
        self.faults = FaultSwitch(self) if faulty else None

    def __enter__(self):
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for i, host in enumerate(self.hosts):
            ip("netns", "add", host)
            ip("-n", host, "link", "add", "net0", "type", "veth", "peer", "name", f"port{i}", "netns", self.switch)
            ip("-n", self.switch, "link", "set", f"port{i}", "up", *([] if self.faults else ["master", "bridge"]))
            ip("-n", host, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "net0")
            ip("-n", host, "link", "set", "net0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        if self.faults:
            self.faults.start()
        return self

    def __exit__(self, *_):
        if self.faults:
            self.faults.stop()
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

    @contextlib.contextmanager
    def names(self, texts):
        """Each host's own /etc/hosts."""
        folders = [pathlib.Path("/etc/netns") / host for host in self.hosts]
        try:
            for folder, text in zip(folders, texts):
                folder.mkdir(parents=True)
                (folder / "hosts").write_text(text)
            yield
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def processes(self):
        """That still run on a host."""
        return [pid for host in self.hosts for pid in ip("netns", "pids", host).stdout.split()]

    def counter(self, host, name):
        text = ip("netns", "exec", self.hosts[host], "cat", f"/sys/class/net/net0/statistics/{name}").stdout
        return int(text)

    def tcp_sent_again(self, host):
        """Segments, as the host's kernel counts them."""
        lines = ip("netns", "exec", self.hosts[host], "cat", "/proc/net/snmp").stdout.splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])


class FaultSwitch:
    """tests/multiprocess/fault_switch.cc between a network's hosts. Frames are single packets: nothing is lost in larger
    pieces than on a real link."""

    def __init__(self, network):
        self.network = network
        self.process = None

    def start(self):
        for host in self.network.hosts:
            ip("-n", host, "link", "set", "net0", "gso_max_segs", "1")
        ports = [f"port{i}" for i in range(len(self.network.hosts))]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.network.switch, os.path.join(BIN, "fault_switch"), *ports],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.tell("count")

    def tell(self, command):
        """Frames so far: passed, lost, parted."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        return dict(zip(answer[::2], map(int, answer[1::2])))

    def stop(self):
        if self.process:
            self.process.stdin.close()
            status = self.process.wait(timeout=60)
            assert status == 0, f"the switch ended with {status}"


class Job:
    """One process per rank: `per_host` of them on each host, or as many as a list says; `program` runs with `words`, and
    with `variables` besides those of a launcher."""

    def __init__(self, network, words, per_host=1, program=RANK, variables=None):
        self.processes, self.files = [], []
        on_each = [per_host] * len(network.hosts) if isinstance(per_host, int) else per_host
        self.hosts = [host for host, count in zip(network.hosts, on_each) for _ in range(count)]  # by rank
        size = len(self.hosts)
        for rank, host in enumerate(self.hosts):
            launched = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500",
                        "FURROW_JOB_TOKEN": "secret"}
            environment = {**os.environ, **launched, **(variables or {})}
            out, err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
            self.files.append((out, err))
            self.processes.append(subprocess.Popen(on(host, program, *words), env=environment, stdout=out, stderr=err))

    def told(self):
        """What every rank has said, for whoever looks for the one that was the first to fail."""
        return "".join(f"\nrank {rank}, status {process.poll()}:\n{self.text(rank)[-500:]}{self.text(rank, 1)[-2000:]}"
                       for rank, process in enumerate(self.processes))

    def text(self, rank, which=0):
        self.files[rank][which].seek(0)
        return self.files[rank][which].read()

    def await_running(self):
        deadline = time.monotonic() + 60
        while not all("running" in self.text(rank) for rank in range(len(self.processes))):
            if time.monotonic() > deadline or any(p.poll() is not None for p in self.processes):
                raise AssertionError(f"not running: {self.told()}")
            time.sleep(0.01)

    def finish(self, expect=0):
        for rank, process in enumerate(self.processes):
            status = process.wait(timeout=120)
            assert (status == 0) == (expect == 0), f"rank {rank} ended with {status}: {self.told()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def repeats():
    """Of a fault, as of those of comm_faults_test.cc."""
    full = os.environ.get("FURROW_TEST_FULL") == "1"
    return int(os.environ.get("FURROW_TEST_REPEATS", "100" if full else "2"))


def endless_words(timeout, *more):
    """Of ranks that work until a fault ends them; they are running when the others know of their progress."""
    return ["--steps", "1000000000", "--settle", "1500", "--timeout", str(timeout), *more]


GRADIENTS = r"all_reduce 'gradients' #\d+ of \d+ float32 \(sum\) in group world"
ANY_OPERATION = r"[a-z_]+(?: '[^']+')? #\d+ of [^;]* in group [^;,]+"


def expect_error_of(job, rank, blamed, how, operation=GRADIENTS):
    """A rank's error says what it was doing and as which number, and of one of the ranks `blamed` its host, `how` it failed,
    and its last progress."""
    one_of = "|".join(rf"rank {other} \(host {job.hosts[other]}, pid \d+\)" for other in blamed)
    wanted = (rf"{operation} on rank \d+ \(host {job.hosts[rank]}, pid \d+\): .*(?:{one_of}).*{how}.*; "
              rf"last progress: {operation}, (?:begun|finished|heard of) [\d.]+ m?s ago")
    assert re.search(wanted, job.text(rank, 1)), f"rank {rank}: {job.text(rank, 1)}{job.told()}"


def expect_error_of_silence(job, rank, blamed, operation=GRADIENTS):
    expect_error_of(job, rank, blamed, r" silent for [\d.]+ s: ", operation)


def expect_held(name, network, *more, of_bound=1.0):
    """An all-reduce of 8 MB between two hosts takes 0.32 s at 200 Mbit/s, by whatever limits it."""
    least = 3 * 8e6 * 8 / 200e6
    start = time.monotonic()
    with Job(network, ["--elements", "2000000", "--steps", "3", *more]) as job:
        job.finish()
        seconds = time.monotonic() - start
        text = job.text(0)
    print(f"{name}: {seconds:.2f} s, at least {least:.2f}")
    assert "done" in text and of_bound * least < seconds < 3 * least + 2, seconds


def expect_hosts():
    """Skips where hosts cannot be made."""
    if os.geteuid() != 0:
        raise Skip("network namespaces need root")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise Skip("iproute2 is not installed")
    try:
        with Network(1):
            pass
    except subprocess.CalledProcessError as error:
        raise Skip(f"'{' '.join(error.cmd)}' failed: {error.stderr.strip()}") from error


def main(tests):
    """Runs those that are named on the command line, or all. One that skips makes the whole a skip, unless one fails."""
    skipped = 0
    try:
        expect_hosts()
    except Skip as why:
        print(f"skipped: {why}")
        sys.exit(77)
    for test in tests:
        if sys.argv[1:] and test.__name__ not in sys.argv[1:]:
            continue
        try:
            test()
            print(f"passed: {test.__name__}", flush=True)
        except Skip as why:
            skipped += 1
            print(f"SKIPPED: {test.__name__}: {why}", flush=True)
    sys.exit(77 if skipped else 0)
