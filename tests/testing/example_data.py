"""Unpacks the sets of $FURROW_DATA that the examples read as plain files but that lie there packed.

    python3 tests/testing/example_data.py FOLDER

writes into FOLDER and prints NAME=PATH lines for the environment of `furrow`: HOUSING from california-housing/housing.tgz,
CIFAR10 through cifar10/unpack.py where there is one.  What is set already, lies there plain or cannot be unpacked is left
alone; the latter is said on stderr.

    python3 tests/testing/example_data.py --of CONFIG

prints where the data of an example are to be, and exits 1 where they are not: all else that an example lacks is a failure.
"""

import os
import pathlib
import re
import subprocess
import sys
import tarfile

SECONDS = 240  # for a set; a few on a machine that is not busy


def unpack_housing(data: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    with tarfile.open(data / "california-housing/housing.tgz") as archive, archive.extractfile("housing.csv") as table:
        (folder / "housing.csv").write_bytes(table.read())
    return folder / "housing.csv"


def unpack_cifar10(data: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, str(data / "cifar10/unpack.py"), str(folder / "cifar10")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    return folder / "cifar10"


# Variable, the plain form, the packed one, how it is unpacked.
SETS = [
    ("HOUSING", "california-housing/housing.csv", "california-housing/housing.tgz", unpack_housing),
    ("CIFAR10", "cifar10/data_batch_1.bin", "cifar10/unpack.py", unpack_cifar10),
]


def unpack(folder: pathlib.Path) -> dict[str, str]:
    data = pathlib.Path(os.environ.get("FURROW_DATA", "data"))
    found = {}
    for variable, plain, packed, unpack_set in SETS:
        if variable in os.environ or (data / plain).exists() or not (data / packed).exists():
            continue
        try:
            found[variable] = str(unpack_set(data, folder))
        except (OSError, KeyError, tarfile.TarError, subprocess.SubprocessError) as error:
            print(f"{data / packed}: cannot be unpacked: {error}", file=sys.stderr)
    return found


def data_of(config: pathlib.Path) -> pathlib.Path:
    """Its training.dataset_path, with the environment's values in it."""
    path = re.search(r'^dataset_path = "(.+)"$', config.read_text(), re.MULTILINE)[1]
    variable = re.compile(r"\$\{(\w+)(?::-([^${}]*))?\}")  # the innermost first
    while variable.search(path):
        path = variable.sub(lambda found: os.environ.get(found[1]) or found[2] or "", path)
    return pathlib.Path(path)


def is_there(path: pathlib.Path) -> bool:
    """As furrow looks for it, compressed too; a set that lies there packed alone is not."""
    for _, plain, _, _ in SETS:
        if path in ((file := pathlib.Path(os.environ.get("FURROW_DATA", "data")) / plain), file.parent):
            return file.exists()
    return path.exists() or path.with_name(path.name + ".gz").exists()


if __name__ == "__main__" and sys.argv[1] == "--of":
    print(place := data_of(pathlib.Path(sys.argv[2])))
    sys.exit(not is_there(place))

if __name__ == "__main__":
    for name, path in unpack(pathlib.Path(sys.argv[1])).items():
        print(f"{name}={path}")
