"""./dev bench overlap: communication that hides behind computation, on an emulated link.

Two ranks share a small gpt's parameters (ZeRO-3, gathered again for backward) over `--comm.throttle LINK`.  Gathers of the next
units are prefetched or not; everything else is the same, and so are the bits.  Every unit is gathered by itself
(`bucket_cap_mb = 0`): one chosen for the link joins units, and of the few gathers left there is less to hide.  `exposed` is the
share of the steps' time in which ranks only waited.  The settings alternate `--repeats` times; medians with [lowest, highest].
"""
import argparse
import statistics

import two_ranks

CONFIG = """
[model]
name = "gpt"
layers = 6
heads = 4
width = 128
context = 64
[training]
dataset = "text"
dataset_path = "text.txt"
local_batch_size = 32
global_batch_size = 64
seq_len = 64
[parallelism]
fsdp_reshard_after_forward = "always"
bucket_cap_mb = 0
"""


def measure(prefetches, link, repeats, steps):
    """`prefetches` maps names to units of prefetch; the result maps names to summaries, taken in turn.  All end with the
    same weights."""
    settings = {name: ["--parallelism.fsdp_prefetch_units", str(units), "--comm.throttle", link]
                for name, units in prefetches.items()}
    return two_ranks.measure(CONFIG, 60_000, settings, repeats, steps)


def median(summaries, key):
    return statistics.median(summary[key] for summary in summaries)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", nargs="+", default=["1ms", "2ms", "1Gbit,500us"])
    parser.add_argument("--prefetch", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    print(f"{'link':<14}{'prefetch':>8}{'exposed [low, high]':>28}{'comm / compute':>16}{'samples/s':>11}")
    for link in options.links:
        for prefetch, summaries in measure({units: units for units in options.prefetch}, link, options.repeats,
                                           options.steps).items():
            exposed = [summary["exposed_communication"] for summary in summaries]
            print(f"{link:<14}{prefetch:>8}{statistics.median(exposed):>11.3f} [{min(exposed):.3f}, {max(exposed):.3f}]"
                  f"{median(summaries, 'comm_to_compute'):>13.3f}{median(summaries, 'samples_per_second'):>11.1f}", flush=True)


if __name__ == "__main__":
    main()
