"""tokenizer.json beside Hugging Face's `tokenizers`, id by id.

GPT-2's vocabulary under the patterns of GPT-2 (with its digits one by one too), Llama 3 and Qwen, with and without ignore_merges and NFC, with added tokens; over the
texts of FURROW_DATA, made-up pieces that patterns disagree on, and any code points.  Needs the package tokenizers and
FURROW_DATA; exits 77 without.
"""

import gzip
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
except ImportError as error:
    print(f"tokenizers_test: {error}: pip install tokenizers")
    sys.exit(77)

DATA = pathlib.Path(os.environ.get("FURROW_DATA", "data"))
TEST = pathlib.Path(os.environ["FURROW_BUILD_DIR"]) / "test_bin/data_test"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {"gpt2": None, "gpt2_digits": None, "llama3": WORDS.replace("DIGITS", r"\p{N}{1,3}"), "qwen": WORDS.replace("DIGITS", r"\p{N}")}
PIECES = ["'s", "'S", "'\u017f", "'LL", "'", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u0085", "\u180e", "\u200b", "1", "23",
          "\u0663", "\u00bd", "\u2167", "a", "B", "\u00e9", "e\u0301", "\u4f60", "\u0939\u093f", "\U0001f468\u200d\U0001f469", "!?", "--",
          "$", "<|im_end|>", "<|im_", "<tool_call>", " two words", "word", " the", "\ufeff", "\0", "\x1c", "\x1f"]


def tokenizer(pattern, ignore_merges, nfc):
    vocabulary = json.loads((DATA / "gpt2-tokenizer/encoder.json").read_text(encoding="utf-8"))
    lines = (DATA / "gpt2-tokenizer/vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    model = models.BPE(vocab=vocabulary, merges=[tuple(line.split(" ")) for line in lines if line], ignore_merges=ignore_merges)
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern == "gpt2_digits":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), made.pre_tokenizer])
    if PATTERNS[pattern] is not None:
        cut = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if nfc:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken(" two words", normalized=True)])
    return made


def texts():
    source = random.Random(1)
    yield "shakespeare", gzip.open(DATA / "tinyshakespeare/input.txt.gz", "rt", newline="", encoding="utf-8").read()
    yield "wikitext", gzip.open(DATA / "wikitext2-valid-test/test.txt.gz", "rt", newline="", encoding="utf-8").read()
    yield "pieces", "".join(source.choice(PIECES) for _ in range(60000))
    spans = (0x80, 0x3000, 0x110000)
    codes = [source.choice([source.randrange(span) for span in spans] + [0x20, 0x0A]) for _ in range(150000)]
    yield "anything", "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def known_marks(text):
    """Without marks that came into Unicode after the tables of `tokenizers`, which takes them for letters."""
    form = normalizers.NFC().normalize_str
    return "".join(c for c in text if (s := f"a{c}\u0301") and form(s) == unicodedata.normalize("NFC", s))


def compare(folder, made, text):
    made.save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_bytes(text.encode())
    ids = made.encode(text, add_special_tokens=False).ids
    (folder / "ids.txt").write_text("".join(f"{i}\n" for i in ids))
    environment = dict(os.environ, FURROW_TOKENIZER_ORACLE=str(folder))
    run = [str(TEST), "--gtest_filter=TokenizerJson.GivesTheIdsOfAGivenFolder"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert "[  PASSED  ] 1 test." in done.stdout, done.stdout[-2000:]
    return len(ids)


def main():
    if not (DATA / "gpt2-tokenizer").exists():
        print("tokenizers_test: no GPT-2 vocabulary: set FURROW_DATA")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        for pattern in PATTERNS:
            for ignore_merges, nfc in ((False, False), (True, False), (False, True)):
                made = tokenizer(pattern, ignore_merges, nfc)
                for name, text in texts():
                    count = compare(pathlib.Path(folder), made, known_marks(text) if nfc else text)
                    print(f"{pattern}, ignore_merges {ignore_merges}, NFC {nfc}, {name}: {count} ids are equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
