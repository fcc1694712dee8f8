"""./dev bench tables: reading CSV and Parquet, beside pyarrow, and pandas and polars where they are installed.

Makes a table of `--gigabytes` (1) of CSV in a temporary folder, which is deleted at the end, and the same rows as Parquet
(about as many bytes as the CSV of them, whatever Parquet makes of it): numbers with and without missing values, integers,
categories, a class. By turns, `--repeats` (3) times, in a process each: `furrow bench data`, that is reading, fitting and
encoding in memory; `furrow data pack`; and the peers, which read alone, and pyarrow and pandas, which also standardise and
encode. Prints medians: wall time, processor time (which other work on the machine disturbs less), peak resident memory, which of
furrow's reading is the encoded rows and what is bounded beside them.
With `--train STEPS` (0: not) the Parquet table's pack is then trained on, streamed with `[data] memory_budget` "256MiB",
beside one of its first rows, and what it takes above that is held against the budget. JSON to `--out`.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from quiet import QUIET
from train import machine, version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FURROW = os.environ.get("FURROW_BIN", os.path.join(ROOT, "build/release/bin/furrow"))
PEER = os.path.join(ROOT, "bench/peers/table_reader.py")
ROWS_AT_A_TIME = 1 << 18


def some_rows(random, count):
    columns = {}
    for i in range(6):
        values = np.round(random.normal(10 * i, 3, count), 4)
        columns[f"number{i}"] = pa.array(values, mask=random.random(count) < 0.02) if i % 3 == 0 else pa.array(values)
    for i in range(3):
        columns[f"integer{i}"] = pa.array(random.integers(0, 10 ** (2 * i + 1), count))
    for i in range(3):
        names = pa.array([f"category {i}.{n}" for n in range(5 * 4 ** i)])
        columns[f"category{i}"] = names.take(pa.array(random.integers(0, len(names), count)))
    columns["y"] = pa.array(["no", "yes"]).take(pa.array(random.integers(0, 2, count)))
    return pa.table(columns)


def make_tables(folder, size):
    """Returns the bytes of the table's rows as they are encoded, 4 for each value."""
    random = np.random.default_rng(1)
    csv = parquet = None
    cells = 0
    with open(folder / "table.csv", "wb") as file:
        while file.tell() < size:
            rows = some_rows(random, ROWS_AT_A_TIME)
            csv = csv or pa.csv.CSVWriter(file, rows.schema, write_options=pa.csv.WriteOptions(quoting_style="none"))
            parquet = parquet or pa.parquet.ParquetWriter(folder / "table.parquet", rows.schema)
            csv.write_table(rows)
            parquet.write_table(rows)
            cells += rows.num_rows * rows.num_columns
    csv.close()
    parquet.close()
    return 4 * cells


def measured(command):
    """Wall and processor seconds and peak resident bytes of a process."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"{command}\nfailed with status {child.returncode}:\n{log.read().decode()[-2000:]}")
    return {"wall_seconds": time.perf_counter() - begin, "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_rss_bytes": usage.ru_maxrss * 1024}


def ways(folder, name):
    """Name -> what runs it."""
    path = folder / name
    options = ["--data.target", "y", "--data.validation_fraction", "0.1"]

    def pack():
        figures = measured([FURROW, "data", "pack", path, "--out", folder / "pack", *options])
        shutil.rmtree(folder / "pack")
        return figures

    result = {"furrow, read and encode": lambda: measured([FURROW, "bench", "data", path, "--seconds", "0.01", *options]),
              "furrow data pack": pack,
              "pyarrow, read": lambda: measured([sys.executable, PEER, "pyarrow", path]),
              "pyarrow, read and encode": lambda: measured([sys.executable, PEER, "pyarrow", path, "prepare"])}
    for library in ("pandas", "polars"):
        if importlib.util.find_spec(library) is not None:
            result[f"{library}, read"] = lambda library=library: measured([sys.executable, PEER, library, path])
    if importlib.util.find_spec("pandas") is not None:
        result["pandas, read and encode"] = lambda: measured([sys.executable, PEER, "pandas", path, "prepare"])
    return result


CONFIG = """[model]
name = "mlp"
hidden = [64]
[training]
dataset = "pack"
local_batch_size = 256
threads = 1
steps = {steps}
[optimizer]
lr = 0.001
[data]
memory_budget = "256MiB"
"""


def trained(folder, name, table, steps):
    """The figures of a run on the pack of a table, with the bytes of the pack."""
    options = ["--data.target", "y", "--data.validation_fraction", "0"]
    measured([FURROW, "data", "pack", table, "--out", folder / name, *options])
    config = folder / f"{name}.toml"
    config.write_text(CONFIG.format(steps=steps) + QUIET)
    figures = measured([FURROW, "train", config, "--training.dataset_path", folder / name,
                        "--job.dump_folder", folder / f"{name}-run"])
    figures["pack_bytes"] = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
    shutil.rmtree(folder / name)
    return figures


def train_streamed(folder, steps):
    """A pack far larger than its budget beside one that is far smaller."""
    with pa.parquet.ParquetFile(folder / "table.parquet") as file:
        pa.parquet.write_table(file.read_row_group(0), folder / "few.parquet")
    runs = {name: trained(folder, name, folder / f"{name}.parquet", steps) for name in ("few", "table")}
    above = runs["table"]["peak_rss_bytes"] - runs["few"]["peak_rss_bytes"]
    print(f"trained {steps} steps from a pack of {runs['table']['pack_bytes'] / 2**30:.2f} GiB, streamed:"
          f" {runs['table']['peak_rss_bytes'] / 2**20:.0f} MiB peak, {above / 2**20:.0f} MiB above a pack of"
          f" {runs['few']['pack_bytes'] / 2**20:.0f} MiB, budget 256 MiB:"
          f" {'within' if above <= 256 << 20 else 'OVER'} the budget")
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1, help="size of the CSV")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="steps on the packed table")
    parser.add_argument("--out", default=os.path.join(ROOT, "build/bench/tables.json"))
    options = parser.parse_args()
    runs, sizes = {}, {}
    with tempfile.TemporaryDirectory(prefix="furrow-bench-tables-") as name:
        folder = pathlib.Path(name)
        encoded = make_tables(folder, int(options.gigabytes * (1 << 30)))
        for repeat in range(options.repeats):
            for table in ("table.csv", "table.parquet"):
                sizes[table] = (folder / table).stat().st_size
                for way, measure in ways(folder, table).items():
                    runs.setdefault(table, {}).setdefault(way, []).append(measure())
                    print(f"{repeat + 1}/{options.repeats} {table} {way}: {runs[table][way][-1]}", file=sys.stderr, flush=True)
        streamed = train_streamed(folder, options.train) if options.train > 0 else None
    figures = {table: {way: {key: statistics.median(run[key] for run in of) for key in of[0]} for way, of in by_way.items()}
               for table, by_way in runs.items()}
    for table, by_way in figures.items():
        print(f"{table}, {sizes[table] / 2**30:.2f} GiB; encoded rows {encoded / 2**20:.0f} MiB")
        for way, figure in by_way.items():
            print(f"  {way:<26}{figure['wall_seconds']:>8.1f} s{figure['cpu_seconds']:>8.1f} CPU s"
                  f"{sizes[table] / 2**20 / figure['cpu_seconds']:>8.0f} MiB a CPU s"
                  f"{figure['peak_rss_bytes'] / 2**20:>8.0f} MiB peak")
    result = {"machine": machine(), "version": version(),
              "gigabytes": options.gigabytes, "load": os.getloadavg(), "sizes": sizes, "encoded_bytes": encoded, "runs": runs, "figures": figures,
              "streamed": streamed}
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
