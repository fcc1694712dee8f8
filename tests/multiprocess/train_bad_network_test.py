"""`furrow train` between 2 to 4 hosts, of equally many ranks and not, whose links are cut in the middle of training, or of
which one rank is killed.

Every rank ends within comm.train_timeout_seconds, with an error that names rank, host, operation, number and last progress,
and with another status than 0; no process is left. The last checkpoint before goes on, on the hosts or in one process, to the
bits of a run that nothing interrupted.

usage: train_bad_network_test.py [TEST ...]
"""

import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "testing"))
from host_training import FURROW, Training  # noqa: E402
from hosts import ANY_OPERATION, Job, Network, expect_error_of, expect_error_of_silence, main, repeats  # noqa: E402

TIMEOUT = 3  # seconds
SPARE = 2.5  # ... that a busy machine may need besides
STEPS = 120
# From the second checkpoint on a step takes so long that the cut comes in the middle of them.
SLOWLY = {"FURROW_FAILPOINTS": "train.step=delay:50@20"}


def await_checkpoint(training, run, job):
    """A step that is saved, long before the last one."""
    deadline = time.monotonic() + 120
    while len(saved := training.saved_steps(run)) < 2:
        over = time.monotonic() > deadline or any(process.poll() is not None for process in job.processes)
        assert not over, f"not saved: {job.told()}"
        time.sleep(0.01)
    return saved[-1]


def cut_links(network, job, apart):
    """Until every rank has ended: seconds."""
    start = time.monotonic()
    network.faults.tell("part " + " ".join(map(str, apart)))
    job.finish(expect=1)
    seconds = time.monotonic() - start
    assert seconds < TIMEOUT + SPARE, seconds
    assert not network.processes(), "a process is left"
    there = [rank for rank, host in enumerate(job.hosts) if network.hosts.index(host) in apart]
    here = [rank for rank in range(len(job.hosts)) if rank not in there]
    for rank in range(len(job.hosts)):
        expect_error_of_silence(job, rank, there if rank in here else here, ANY_OPERATION)
    return seconds


def go_on(training, run, network, per_host, settings):
    """From its last checkpoint, on hosts that hear each other again, or in one process: what rank 0 logs."""
    if network is None:
        return training.alone(training.resume_words(run, "--comm.algorithm", "auto"))
    network.faults.tell("part")
    with Job(network, training.resume_words(run, *settings), per_host, FURROW) as job:
        job.finish()
        return job.text(0, 1)


def expect_cut_and_resumed(hosts, per_host, apart, settings, on_hosts):
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        training = Training(folder, STEPS)
        training.alone(training.words("whole"))
        for i in range(max(1, repeats() // 10)):
            run = f"cut{i}"
            words = training.words(run, "--comm.train_timeout_seconds", str(TIMEOUT), *settings)
            with Network(hosts, faulty=True) as network:
                with Job(network, words, per_host, FURROW, SLOWLY) as job:
                    saved = await_checkpoint(training, run, job)
                    worst = max(worst, cut_links(network, job, apart))
                    assert "comm.algorithm = " not in job.text(0, 1), "an algorithm that nobody takes"
                    error = job.text(0, 1).strip().splitlines()[-1]
                assert saved <= training.saved_steps(run)[-1] < STEPS, "it was cut after its last step"
                log = go_on(training, run, network if on_hosts else None, per_host, settings)
            assert "resuming at step" in log, log
            assert training.model(run) == training.model("whole"), "other bits than a run without a cut"
    print(f"{hosts} hosts of {per_host}, {apart} apart: the last rank ended at worst {worst:.2f} s after the cut: {error}")


def test_tcp():
    expect_cut_and_resumed(3, 1, {2}, ["--comm.transport", "tcp"], on_hosts=False)


def test_hierarchical():
    expect_cut_and_resumed(2, 2, {1}, ["--comm.algorithm", "hierarchical"], on_hosts=True)


def test_two_halves():
    expect_cut_and_resumed(4, 1, {0, 3}, ["--parallelism.zero_stage", "1"], on_hosts=True)


def test_killed():
    """The last of four ranks, on hosts of two, one and one."""
    victim, replicated = 3, "--parallelism.data_parallel_replicate_degree"
    with tempfile.TemporaryDirectory() as folder, Network(3) as network:
        training = Training(folder, STEPS)
        training.alone(training.words("whole"))
        words = training.words("killed", replicated, "2", "--parallelism.data_parallel_shard_degree", "2")
        with Job(network, words, [2, 1, 1], FURROW, SLOWLY) as job:
            await_checkpoint(training, "killed", job)
            job.processes[victim].kill()
            start = time.monotonic()
            job.finish(expect=1)
            seconds = time.monotonic() - start
            assert seconds < 1 + SPARE, seconds
            assert not network.processes(), "a process is left"
            for rank in range(victim):
                expect_error_of(job, rank, [victim], " ended its connection", ANY_OPERATION)
        log = training.alone(training.resume_words("killed", replicated, "1", "--parallelism.data_parallel_shard_degree", "1"))
        assert "resuming at step" in log, log
        assert training.model("killed") == training.model("whole"), "other bits than a run that nothing interrupted"
        print(f"rank {victim} killed: the others ended {seconds:.2f} s later")


if __name__ == "__main__":
    main((test_tcp, test_hierarchical, test_two_halves, test_killed))
