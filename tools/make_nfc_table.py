"""Prints furrow/preprocess/nfc_table.inc, what Unicode says about canonical composition, from Python's own tables.

    python3 tools/make_nfc_table.py > furrow/preprocess/nfc_table.inc
"""
import sys
import unicodedata


def lines(entries):
    line = " "
    for entry in entries:
        if len(line) + len(entry) + 2 > 120:
            yield line
            line = " "
        line += f" {entry},"
    yield line


def table(declaration, entries):
    print(f"constexpr {declaration} = {{")
    for line in lines(entries):
        print(line)
    print("};")


def main():
    codes = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    decompositions, compositions = [], []
    for char in codes:
        parts = unicodedata.decomposition(char)
        if not parts or parts.startswith("<"):
            continue
        first, second = (parts.split() + ["0"])[:2]
        decompositions.append(f"{{0x{ord(char):x}, 0x{first.lower()}, 0x{second.lower()}}}")
        if second != "0" and unicodedata.normalize("NFC", char) == char:
            compositions.append((int(first, 16), int(second, 16), ord(char)))
    classes, begin = [], None
    for char in codes + ["a"]:
        if begin is not None and (ord(char) != end + 1 or unicodedata.combining(char) != of):
            classes.append(f"{{0x{begin:x}, 0x{end:x}, {of}}}")
            begin = None
        if begin is None and unicodedata.combining(char) != 0:
            begin, of = ord(char), unicodedata.combining(char)
        end = ord(char)
    print(f"// Unicode {unicodedata.unidata_version}, by tools/make_nfc_table.py.")
    table("Decomposition kDecompositions[]", decompositions)
    table("Composition kCompositions[]", [f"{{0x{a:x}, 0x{b:x}, 0x{c:x}}}" for a, b, c in sorted(compositions)])
    table("Class kClasses[]", classes)


main()
