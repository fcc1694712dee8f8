"""Reads a table as users of Python do, and prints how long that took: table_reader.py LIBRARY FILE [prepare].

LIBRARY is pyarrow, pandas or polars. With `prepare` (not of polars) the table is also made ready to train on, as furrow does:
mean and deviation of its numbers, texts as categories. Prints JSON.
"""
import json
import sys
import time


def with_pyarrow(path):
    if path.endswith(".parquet"):
        import pyarrow.parquet
        return pyarrow.parquet.read_table(path)
    import pyarrow.csv
    return pyarrow.csv.read_csv(path)


def prepare(table):
    import pyarrow as pa
    import pyarrow.compute as pc
    prepared = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_string(column.type):
            prepared[name] = column.dictionary_encode()
        else:
            values = column.cast(pa.float64())
            prepared[name] = pc.divide(pc.subtract(values, pc.mean(values)), pc.stddev(values)).cast(pa.float32())
    return pa.table(prepared)


def with_pandas(path):
    import pandas
    return pandas.read_parquet(path) if path.endswith(".parquet") else pandas.read_csv(path)


def prepare_pandas(frame):
    import pandas
    prepared = {}
    for name, column in frame.items():
        if pandas.api.types.is_numeric_dtype(column):
            prepared[name] = ((column - column.mean()) / column.std(ddof=0)).astype("float32")
        else:
            prepared[name] = column.astype("category")
    return pandas.DataFrame(prepared)


def with_polars(path):
    import polars
    return polars.read_parquet(path) if path.endswith(".parquet") else polars.read_csv(path)


def main():
    library, path = sys.argv[1:3]
    __import__(library)
    begin = time.perf_counter()
    table = {"pyarrow": with_pyarrow, "pandas": with_pandas, "polars": with_polars}[library](path)
    if sys.argv[3:] == ["prepare"]:
        table = {"pyarrow": prepare, "pandas": prepare_pandas}[library](table)
    print(json.dumps({"rows": len(table), "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
