"""A real Slurm on hosts of its own, which are network namespaces: slurmctld on the first, slurmd on each, and what srun starts.

Its daemons trust whoever reaches them (auth/none), and nobody outside the namespaces does.

usage: slurm_test.py [TEST ...]
"""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "testing"))
from host_training import FURROW, Training  # noqa: E402
from hosts import GRADIENTS, RANK, Network, Skip, main, on  # noqa: E402

DAEMONS = ("slurmctld", "slurmd", "srun", "sinfo", "salloc", "sbatch", "scancel", "squeue")
CONFIG = """
ClusterName=furrow
SlurmctldHost={first}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=2
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def eventually(what, holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Slurm:
    """On the hosts of a network, `processors` tasks at a time on each."""

    def __init__(self, network, folder, processors=4):
        self.network, self.folder, self.daemons = network, pathlib.Path(folder), []
        hosts = network.hosts
        nodes = "\n".join(f"NodeName={host} NodeAddr=10.77.0.{i + 1} CPUs={processors} State=UNKNOWN"
                          for i, host in enumerate(hosts))
        (self.folder / "state").mkdir()
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # looks for no file system of control groups
        for host in hosts:
            (self.folder / f"spool.{host}").mkdir()
            (self.folder / f"tmp.{host}").mkdir()
        (self.folder / "slurm.conf").write_text(CONFIG.format(first=f"{hosts[0]}(10.77.0.1)", folder=folder, nodes=nodes))
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "FURROW_JOB_TOKEN": "secret"}

    def start(self, host, *words):
        log = open(self.folder / f"{words[0]}.{host}.out", "w")
        self.daemons.append(subprocess.Popen(on(host, *words), env=self.environment, stdout=log, stderr=log))

    def __enter__(self):
        first, *_ = self.network.hosts
        self.start(first, "slurmctld", "-D")
        for host in self.network.hosts:
            self.start(host, "slurmd", "-D", "-N", host)
        wanted = len(self.network.hosts)
        try:
            eventually("all nodes idle", lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D").stdout.strip() == str(wanted))
        except AssertionError as error:
            logs = "".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
            self.__exit__()
            raise AssertionError(f"{error}\n{logs}") from error
        return self

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.network.processes():  # slurmstepd would tell slurmctld of its end for a while
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def command(self, *words):
        return on(self.network.hosts[0], *words)

    def run(self, *words):
        """On the first host; what it printed, both streams."""
        return subprocess.run(self.command(*words), env=self.environment, check=False, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120)

    def start_step(self, *words):
        return subprocess.Popen(self.command(*words), env=self.environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def expect_no_task(self):
        """Nothing runs on a host but the daemons and what they keep."""
        ours = {os.path.basename(RANK), os.path.basename(FURROW)}

        def tasks():
            names = []
            for pid in self.network.processes():
                with contextlib.suppress(OSError):
                    names.append(pathlib.Path(f"/proc/{pid}/comm").read_text().strip())
            return ours & set(names)

        eventually("no rank is left", lambda: not tasks(), 10)


@contextlib.contextmanager
def cluster(hosts):
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        raise Skip(f"{', '.join(missing)}: not installed: apt install slurmctld slurmd slurm-client")
    with Network(hosts) as network, tempfile.TemporaryDirectory() as folder:
        names = "127.0.0.1 localhost\n" + "".join(f"10.77.0.{i + 1} {host}\n" for i, host in enumerate(network.hosts))
        with network.names([names] * hosts), Slurm(network, folder) as slurm:
            yield slurm


def test_ranks():
    """srun alone says who is who, on whole hosts and where they have different numbers of tasks."""
    with cluster(2) as slurm:
        for words, local_sizes in ((["-N", "2", "--ntasks-per-node", "2"], (2, 2)), (["-N", "2", "-n", "3", "-m", "block"], (2, 1)),
                                   (["-N", "1", "-n", "3"], (3,))):
            done = slurm.run("srun", *words, RANK, "--steps", "20")
            assert done.returncode == 0, done.stdout
            size, rank = sum(local_sizes), 0
            for node, count in enumerate(local_sizes):
                for local in range(count):
                    wanted = f"joined rank {rank} of {size} launcher slurm local {local} of {count} node {node}"
                    assert wanted in done.stdout, (wanted, done.stdout)
                    rank += 1
            assert done.stdout.count("done sent") == size, done.stdout
        slurm.expect_no_task()


def test_two_steps_of_a_job():
    """At once, they do not meet each other."""
    with cluster(2) as slurm:
        step = "srun --exact -N 2 -n 2 --mem 0 $0 --steps 2000"
        done = slurm.run("salloc", "-Q", "-N", "2", "-n", "8", "sh", "-c", f"{step} & {step} & wait", RANK)
        assert done.returncode == 0 and done.stdout.count("done sent") == 4, done.stdout


def test_train():
    """The run of one process, bit for bit; a batch script's own process among several tasks is refused."""
    with cluster(2) as slurm:
        training = Training(slurm.folder, steps=12)
        training.alone(training.words("one"))
        training.alone(training.words("other", "--debug.seed", "9"))
        done = slurm.run("srun", "-N", "2", "--ntasks-per-node", "2", FURROW, *training.words("four"))
        assert done.returncode == 0, done.stdout
        assert training.model("four") == training.model("one"), "other bits"
        assert training.model("other") != training.model("one"), "control: another seed has the same bits"
        log = slurm.folder / "batch.log"
        done = slurm.run("sbatch", "-Q", "--wait", "-n", "2", "-o", str(log), "--wrap",
                         shlex.join([FURROW, *training.words("refused")]))
        assert done.returncode != 0 and "was not started by srun: start it with srun" in log.read_text(), log.read_text()
        slurm.expect_no_task()


def test_mpi():
    """Over Open MPI, whose ranks Slurm starts by PMIx: on one host, and between two."""
    with cluster(2) as slurm:
        training = Training(slurm.folder, steps=12)
        training.alone(training.words("one"))
        for run, words in (("host", ("-N", "1", "-n", "2")), ("hosts", ("-N", "2", "-n", "2"))):
            done = slurm.run("srun", "--mpi=pmix", *words, FURROW, *training.words(run, "--comm.backend", "mpi"))
            assert done.returncode == 0, done.stdout
            assert training.model(run) == training.model("one"), "other bits"
        slurm.expect_no_task()


def test_a_rank_that_throws():
    with cluster(2) as slurm:
        done = slurm.run("srun", "-N", "2", "--ntasks-per-node", "2", RANK, "--fault", "throw", "--fault-rank", "2")
        assert done.returncode != 0, done.stdout
        wanted = rf"rank 2 \(host {slurm.network.hosts[1]}, pid \d+\): the shard is damaged; last progress: {GRADIENTS}"
        assert re.search(wanted, done.stdout), done.stdout
        slurm.expect_no_task()


def test_cancelled():
    """scancel of a training: it saves where it is, ends, and goes on in a job with more tasks to the bits of one process."""
    with cluster(2) as slurm:
        training = Training(slurm.folder, steps=200)
        training.alone(training.words("one"))
        words = training.words("run", "--checkpoint.interval", "5")
        step = slurm.start_step("srun", "-N", "2", "--ntasks-per-node", "1", FURROW, *words)
        eventually("a checkpoint", lambda: training.saved_steps("run"))
        job = slurm.run("squeue", "-h", "-o", "%i").stdout.strip()
        slurm.run("scancel", "--signal", "TERM", f"{job}.0")
        text, _ = step.communicate(timeout=60)
        assert step.returncode != 0 and "interrupted" in text, text
        slurm.expect_no_task()
        last = training.saved_steps("run")[-1]
        done = slurm.run("srun", "-N", "2", "--ntasks-per-node", "2", FURROW, *training.resume_words("run"))
        assert done.returncode == 0 and f"resuming at step {last} of 200" in done.stdout, done.stdout
        assert training.model("run") == training.model("one"), "other bits"
        print(f"cancelled at step {last} of 200, on two ranks; finished on four")


if __name__ == "__main__":
    main((test_ranks, test_two_steps_of_a_job, test_train, test_mpi, test_a_rank_that_throws, test_cancelled))
