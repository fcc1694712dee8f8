"""furrow models: Hugging Face folders go in and out bit for bit; what cannot be read is named."""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

FURROW = os.environ["FURROW_BIN"]
GPT2 = dict(model_type="gpt2", vocab_size=11, n_layer=2, n_head=2, n_embd=8, n_positions=6, activation_function="gelu_new")
LLAMA = dict(model_type="llama", vocab_size=11, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             hidden_size=16, intermediate_size=24, max_position_embeddings=6, rms_norm_eps=1e-6, rope_theta=5e5,
             hidden_act="silu", tie_word_embeddings=False)
# As published: a sliding window that is off, tied in the small ones.
QWEN2 = dict(LLAMA, model_type="qwen2", rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False)


def shapes_of(config):
    if config["model_type"] == "gpt2":
        width = config["n_embd"]
        yield "transformer.wte.weight", (config["vocab_size"], width)
        yield "transformer.wpe.weight", (config["n_positions"], width)
        for i in range(config["n_layer"]):
            layer = f"transformer.h.{i}."
            for norm in ("ln_1", "ln_2"):
                yield layer + norm + ".weight", (width,)
                yield layer + norm + ".bias", (width,)
            for name, rows, columns in (("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
                                        ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width)):
                yield layer + name + ".weight", (rows, columns)  # [in, out], as transformers keeps GPT-2's
                yield layer + name + ".bias", (columns,)
        yield "transformer.ln_f.weight", (width,)
        yield "transformer.ln_f.bias", (width,)
        return
    width, ffn = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim", width // config["num_attention_heads"])
    queries, keys = size * config["num_attention_heads"], size * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (width,)
        yield layer + "post_attention_layernorm.weight", (width,)
        for name, rows, columns in (("self_attn.q_proj", queries, width), ("self_attn.k_proj", keys, width),
                                    ("self_attn.v_proj", keys, width), ("self_attn.o_proj", width, queries),
                                    ("mlp.gate_proj", ffn, width), ("mlp.up_proj", ffn, width), ("mlp.down_proj", width, ffn)):
            yield layer + name + ".weight", (rows, columns)
            if config["model_type"] == "qwen2" and name.split(".")[-1] in ("q_proj", "k_proj", "v_proj"):
                yield layer + name + ".bias", (rows,)
    yield "model.norm.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], width)


def random_tensors(config, width=4):
    """name -> (shape, bytes) of any finite bits."""
    source = random.Random(1)
    tensors = {}
    for name, shape in shapes_of(config):
        count = 1
        for size in shape:
            count *= size
        values = [source.gauss(0, 1) for _ in range(count)]
        data = struct.pack(f"<{count}f", *values)
        if width == 2:  # bfloat16: the upper halves
            data = b"".join(data[4 * i + 2 : 4 * i + 4] for i in range(count))
        tensors[name] = (shape, data)
    return tensors


def write_safetensors(path, tensors, dtype="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    data = raw[8 + size :]
    return {name: (tuple(t["shape"]), data[t["data_offsets"][0] : t["data_offsets"][1]]) for name, t in header.items()}


def write_folder(folder, config, tensors, dtype="F32"):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    return folder


def models(*arguments, code=0):
    done = subprocess.run([FURROW, "models", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{arguments}: status {done.returncode}, wanted {code}\n{done.stderr}"
    return done.stdout + done.stderr


def transposed(shape, data):
    rows, columns = shape
    cells = [data[4 * i : 4 * i + 4] for i in range(rows * columns)]
    return (columns, rows), b"".join(cells[i * columns + j] for j in range(columns) for i in range(rows))


def round_trip(work, name, config):
    tensors = random_tensors(config)
    source = write_folder(work / name, config, tensors)
    assert "parameters" in models("import", "hf", source, "--out", work / f"{name}-model")
    models("export", "hf", work / f"{name}-model", "--out", work / f"{name}-again")
    assert read_safetensors(work / f"{name}-again/model.safetensors") == tensors, f"{name}: other bits"
    again = json.loads((work / f"{name}-again/config.json").read_text())
    for key, value in config.items():
        assert again[key] == value, f"{name}: {key} is {again[key]}, was {value}"
    models("import", "hf", work / f"{name}-again", "--out", work / f"{name}-model-again")
    first, second = ((work / f / "model.safetensors").read_bytes() for f in (f"{name}-model", f"{name}-model-again"))
    assert first == second
    return tensors, read_safetensors(work / f"{name}-model/model.safetensors")


def check_gpt2(work):
    theirs, ours = round_trip(work, "gpt2", GPT2)
    for name in ("h.0.attn.c_proj.weight", "h.1.mlp.c_fc.weight"):
        assert ours[name] == transposed(*theirs["transformer." + name]), name
    assert ours["wte.weight"] == theirs["transformer.wte.weight"]
    # Names without the prefix, masks and the tied matrix once more, as in the published file.
    bare = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}
    bare["h.0.attn.bias"] = ((1, 1, 2, 2), bytes(16))
    bare["lm_head.weight"] = theirs["transformer.wte.weight"]
    models("import", "hf", write_folder(work / "bare", GPT2, bare), "--out", work / "bare-model")
    assert read_safetensors(work / "bare-model/model.safetensors") == ours


def check_llama(work):
    theirs, ours = round_trip(work, "llama", LLAMA)
    assert ours == theirs
    # Sizes that [model] leaves to their defaults are written out.
    default = dict(LLAMA, intermediate_size=64, num_key_value_heads=4)
    models("import", "hf", write_folder(work / "default", default, random_tensors(default)), "--out", work / "default-model")
    lines = (work / "default-model/model.toml").read_text().splitlines()
    left = [line for line in lines if not line.strip('"').startswith(("ffn_width", "kv_heads"))]
    assert len(left) == len(lines) - 2, lines
    (work / "default-model/model.toml").write_text("\n".join(left) + "\n")
    models("export", "hf", work / "default-model", "--out", work / "default-again")
    again = json.loads((work / "default-again/config.json").read_text())
    assert (again["intermediate_size"], again["num_key_value_heads"]) == (64, 4), again
    # As transformers >= 5 writes them: theta inside rope_parameters, none beside it.
    later = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    later.update(rope_parameters={"rope_theta": 3e5, "rope_type": "default"}, head_dim=4, attention_dropout=0.1, tool_version="1.2")
    models("import", "hf", write_folder(work / "later", later, theirs), "--out", work / "later-model")
    models("export", "hf", work / "later-model", "--out", work / "later-again")
    assert json.loads((work / "later-again/config.json").read_text())["rope_theta"] == 3e5
    check_positions(work, theirs)
    # Two shards, and bfloat16, whose floats are exact.
    half = random_tensors(LLAMA, width=2)
    folder = write_folder(work / "sharded", LLAMA, {}, "BF16")
    (folder / "model.safetensors").unlink()
    names = sorted(half)
    index = {"weight_map": {}}
    for part, chosen in enumerate((names[:5], names[5:])):
        write_safetensors(folder / f"model-{part}.safetensors", {n: half[n] for n in chosen}, "BF16")
        index["weight_map"].update({n: f"model-{part}.safetensors" for n in chosen})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    models("import", "hf", folder, "--out", work / "sharded-model")
    for name, (_, data) in read_safetensors(work / "sharded-model/model.safetensors").items():
        assert data == b"".join(b"\0\0" + half[name][1][i : i + 2] for i in range(0, len(half[name][1]), 2)), name
    check_types(work, half)


def check_qwen2(work):
    theirs, ours = round_trip(work, "qwen2", QWEN2)
    assert ours == theirs and len(theirs["model.layers.1.self_attn.k_proj.bias"][1]) == 4 * 8
    settings = (work / "qwen2-model/model.toml").read_text()
    assert "\nqkv_bias = true" in settings and '\nname = "llama"' in settings, settings
    assert json.loads((work / "qwen2-again/config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    round_trip(work, "untied", dict(QWEN2, tie_word_embeddings=False))
    # Every key that a published folder has, and what transformers 5 makes of it.
    published = dict(QWEN2, attention_dropout=0.0, bos_token_id=1, eos_token_id=1, initializer_range=0.02, max_window_layers=24,
                     sliding_window=32768, use_cache=True, use_mrope=False, rope_scaling=None)
    models("import", "hf", write_folder(work / "published", published, theirs), "--out", work / "published-model")
    later = {key: value for key, value in published.items() if key != "rope_theta"}
    later.update(rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, layer_types=["full_attention"] * 2, sliding_window=None)
    models("import", "hf", write_folder(work / "later", later, theirs), "--out", work / "later-model")
    for name in ("published", "later"):
        assert (work / f"{name}-model/model.safetensors").read_bytes() == (work / "qwen2-model/model.safetensors").read_bytes()
    half = random_tensors(QWEN2, width=2)
    models("import", "hf", write_folder(work / "half", QWEN2, half, "BF16"), "--out", work / "half-model")
    models("export", "hf", work / "half-model", "--out", work / "half-again")
    assert read_safetensors(work / "half-again/model.safetensors") == half

    def refused(name, config, kept, code, text):
        out = models("import", "hf", write_folder(work / name, config, kept), "--out", work / f"{name}-model", code=code)
        assert text in out, out

    refused("window", dict(QWEN2, use_sliding_window=True), theirs, 13, "use_sliding_window must be false")
    refused("layers", dict(later, layer_types=["full_attention", "sliding_attention"]), theirs, 13, "layer_types names sliding_attention")
    refused("mrope", dict(QWEN2, use_mrope=True), theirs, 13, "use_mrope is a key")
    plain = {name: tensor for name, tensor in theirs.items() if not name.endswith(".bias")}
    refused("plain", QWEN2, plain, 3, "no tensor model.layers.0.self_attn.q_proj.bias")
    refused("llama", dict(QWEN2, model_type="llama", use_sliding_window=None), theirs, 13, "_proj.bias belongs to nothing")


def check_positions(work, tensors):
    """Scaled rotary positions, as transformers 4 and 5 write them, and heads that are no share of the width."""
    llama3 = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    round_trip(work, "llama3", dict(LLAMA, rope_scaling=llama3))
    round_trip(work, "linear", dict(LLAMA, rope_scaling=dict(rope_type="linear", factor=2.5)))
    _, wide = round_trip(work, "heads", dict(LLAMA, head_dim=6))
    round_trip(work, "odd", dict(LLAMA, num_attention_heads=3, num_key_value_heads=1, head_dim=6))
    assert wide["model.layers.0.self_attn.q_proj.weight"][0] == (24, 16) and "\nhead_dim = 0" in (work / "llama-model/model.toml").read_text()
    later = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    later.update(rope_parameters=dict(llama3, rope_theta=3e5), head_dim=None)
    models("import", "hf", write_folder(work / "scaled5", later, tensors), "--out", work / "scaled5-model")
    models("export", "hf", work / "scaled5-model", "--out", work / "scaled5-again")
    again = json.loads((work / "scaled5-again/config.json").read_text())
    assert again["rope_theta"] == 3e5 and again["rope_scaling"] == llama3 and "head_dim" not in again, again
    old = dict(LLAMA, rope_scaling={"type": "linear", "factor": 2})
    models("import", "hf", write_folder(work / "old", old, tensors), "--out", work / "old-model")
    assert "rope_factor" in (work / "old-model/model.toml").read_text()


def check_types(work, half):
    """What came in 16 bits goes out in them, bit for bit; any model in those that are asked for."""
    models("export", "hf", work / "sharded-model", "--out", work / "sharded-again")
    assert read_safetensors(work / "sharded-again/model.safetensors") == half
    assert json.loads((work / "sharded-again/config.json").read_text())["torch_dtype"] == "bfloat16"
    models("export", "hf", work / "sharded-model", "--out", work / "wide", "--dtype", "float32")
    assert read_safetensors(work / "wide/model.safetensors") == read_safetensors(work / "sharded-model/model.safetensors")
    models("export", "hf", work / "llama-model", "--out", work / "rounded", "--dtype", "bfloat16")
    whole, rounded = (read_safetensors(work / f / "model.safetensors") for f in ("llama-model", "rounded"))
    for name, (_, data) in whole.items():
        for i in range(len(data) // 4):
            bits = struct.unpack_from("<I", data, 4 * i)[0]
            nearest = bits + 0x7FFF + (bits >> 16 & 1) >> 16
            assert struct.unpack_from("<H", rounded[name][1], 2 * i)[0] == nearest, name
    large = dict(read_safetensors(work / "wide/model.safetensors"))
    large["model.norm.weight"] = ((16,), struct.pack("<16f", *[1e5] * 16))
    models("import", "hf", write_folder(work / "large", LLAMA, large), "--out", work / "large-model")
    refused = models("export", "hf", work / "large-model", "--out", work / "x", "--dtype", "float16", code=2)
    assert "model.norm.weight has a value of 100000, which float16 does not reach" in refused, refused
    assert not (work / "x").exists()
    assert "--dtype is for" in models("import", "hf", work / "large", "--out", work / "x", "--dtype", "float32", code=2)


def check_refusals(work):
    tensors = random_tensors(LLAMA)

    def refused(name, config, kept, code, text):
        out = models("import", "hf", write_folder(work / name, config, kept), "--out", work / f"{name}-model", code=code)
        assert text in out, out
        assert not (work / f"{name}-model").exists()

    refused("bert", dict(LLAMA, model_type="bert"), tensors, 13, "known: gpt2, llama, qwen2")
    refused("untyped", dict(LLAMA, rope_scaling={"factor": 8}), tensors, 13, "rope_scaling of type default has factor")
    for kind in ("dynamic", "yarn", "longrope"):
        scaled = dict(LLAMA, rope_scaling={"rope_type": kind, "factor": 8.0})
        refused(kind, scaled, tensors, 13, f"rope_scaling.rope_type is {kind}: this library has rotary embeddings of the types default, linear")
    llama3 = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}
    refused("short", dict(LLAMA, rope_parameters=llama3), tensors, 11, "low_freq_factor")
    llama3.update(low_freq_factor=4.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    refused("flat", dict(LLAMA, rope_parameters=llama3), tensors, 2, "rope_low_freq_factor = 4 must be below")
    refused("shrunk", dict(LLAMA, rope_scaling={"rope_type": "linear", "factor": 0.5}), tensors, 2, "rope_factor = 0.5 must be at least 1")
    refused("partial", dict(LLAMA, rope_parameters={"partial_rotary_factor": 0.5}), tensors, 13, "has partial_rotary_factor")
    refused("softcap", dict(LLAMA, attn_logit_softcapping=50.0), tensors, 13, "attn_logit_softcapping is a key")
    refused("heads", dict(LLAMA, head_dim=8), tensors, 7, "the sizes of the model ask for [32, 16]")
    refused("oddheads", dict(LLAMA, head_dim=7), tensors, 2, "head_dim 7 is odd")
    refused("biased", dict(LLAMA, attention_bias=True), tensors, 13, "attention_bias must be false")
    refused("extra", LLAMA, dict(tensors, other=((1,), bytes(4))), 13, "tensor other belongs to nothing")
    missing = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
    refused("missing", LLAMA, missing, 3, "no tensor model.norm.weight")
    refused("wider", dict(LLAMA, intermediate_size=25), tensors, 7, "the sizes of the model ask for [25, 16]")
    refused("odd", dict(LLAMA, num_key_value_heads=3), tensors, 2, "no multiple of kv_heads = 3")
    folder = write_folder(work / "pickled", LLAMA, tensors)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "parameters in pytorch_model.bin" in models("import", "hf", folder, "--out", work / "x", code=13)
    folder = write_folder(work / "torn", LLAMA, tensors)
    (folder / "config.json").write_text('{"model_type": "llama",')
    assert "config.json" in models("import", "hf", folder, "--out", work / "torn-model", code=11)
    assert "there already" in models("import", "hf", folder, "--out", work, code=4)
    assert "did you mean 'import hf'" in models("import", "hg", folder, "--out", work / "x", code=2)


BYTE_ORDER = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
BYTE_ORDER += [b for b in range(256) if b not in BYTE_ORDER]
MERGES = ["l o", "lo w", "e r", "\u0120 low"]


def gpt2_vocabulary():
    """vocab.json of MERGES, as GPT-2 numbers tokens: bytes by their printable forms, merges, the end."""
    printable, shifted = {}, 256
    for byte in range(256):
        good = 33 <= byte <= 126 or (byte >= 161 and byte != 173)
        printable[byte] = chr(byte if good else shifted)
        shifted += not good
    tokens = [printable[b] for b in BYTE_ORDER] + [m.replace(" ", "") for m in MERGES] + ["<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}


def evaluate(model, text, *more, code=0):
    done = subprocess.run([FURROW, "eval", str(model), "--text", str(text), "--json", *more], capture_output=True, text=True,
                          check=False)
    assert done.returncode == code, f"status {done.returncode}, wanted {code}\n{done.stderr}"
    return json.loads(done.stdout)[0] if code == 0 else done.stderr


def check_tokenizers(work):
    config = dict(GPT2, vocab_size=300)
    folder = write_folder(work / "gpt2", config, random_tensors(config))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(m + "\n" for m in MERGES), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(gpt2_vocabulary()))
    models("import", "hf", folder, "--out", work / "model")
    assert '"kind" = "gpt2"' in (work / "model/model.toml").read_text()
    models("export", "hf", work / "model", "--out", work / "again")
    assert (work / "again/merges.txt").read_bytes() == (folder / "merges.txt").read_bytes()
    assert json.loads((work / "again/vocab.json").read_text()) == gpt2_vocabulary()
    (work / "text").write_text("low lower lowest " * 20)
    result = evaluate(work / "model", work / "text")
    assert result["split"] == "text" and result["samples"] > 10 and result["loss"] > 0, result

    swapped = gpt2_vocabulary()
    swapped["low"], swapped["er"] = swapped["er"], swapped["low"]
    (folder / "vocab.json").write_text(json.dumps(swapped))
    refused = models("import", "hf", folder, "--out", work / "x", code=11)
    assert 'token "low" of line 3 of the merges is number 258' in refused and "--tokenizer none" in refused, refused
    models("import", "hf", folder, "--out", work / "without", "--tokenizer", "none")
    assert '"kind"' not in (work / "without/model.toml").read_text()
    (folder / "vocab.json").unlink()
    small = dict(GPT2, vocab_size=260)
    (folder / "config.json").write_text(json.dumps(small))
    write_safetensors(folder / "model.safetensors", random_tensors(small))
    assert "belongs to another model" in models("import", "hf", folder, "--out", work / "x", code=7)
    (folder / "merges.txt").unlink()
    assert "no tokenizer comes with the model" in models("import", "hf", folder, "--out", work / "bare")
    assert "carries no tokenizer" in evaluate(work / "bare", work / "text", code=7)
    assert not (work / "x").exists()


def check_tokenizer_json(work):
    """Byte pairs of Hugging Face's `tokenizers` come in and go out; what is not read is named."""
    source = pathlib.Path(__file__).parents[2] / "furrow/data/tokenizer_json_fuzz_corpus/llama3"
    tokenizer = json.loads(source.read_text(encoding="utf-8"))
    config = dict(LLAMA, vocab_size=412)
    folder = write_folder(work / "llama", config, random_tensors(config))
    (folder / "tokenizer.json").write_bytes(source.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    models("import", "hf", folder, "--out", work / "model")
    assert '"kind" = "hf"' in (work / "model/model.toml").read_text(encoding="utf-8")
    models("export", "hf", work / "model", "--out", work / "again")
    again = json.loads((work / "again/tokenizer.json").read_text(encoding="utf-8"))
    assert again["added_tokens"] == tokenizer["added_tokens"] and again["pre_tokenizer"] == tokenizer["pre_tokenizer"]
    for key in ("vocab", "merges", "ignore_merges"):
        assert again["model"][key] == tokenizer["model"][key], key
    named = json.loads((work / "again/tokenizer_config.json").read_text())
    assert (named["bos_token"], named["eos_token"]) == ("<|begin|>", "<|end|>"), named
    models("import", "hf", work / "again", "--out", work / "second")
    assert (work / "second/model.toml").read_bytes().count(b"<|begin|>") == (work / "model/model.toml").read_bytes().count(b"<|begin|>")

    small = dict(LLAMA, vocab_size=411)
    (folder / "config.json").write_text(json.dumps(small))
    write_safetensors(folder / "model.safetensors", random_tensors(small))
    assert "has 412 tokens, but the model knows 411" in models("import", "hf", folder, "--out", work / "x", code=7)
    tokenizer["normalizer"] = {"type": "NFKC"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused = models("import", "hf", folder, "--out", work / "x", code=13)
    assert "the normalizer NFKC" in refused and "--tokenizer none" in refused, refused
    # One of another form is not in the way of a form that is read.
    pieces = pathlib.Path(os.environ.get("FURROW_DATA", "data")) / "sentencepiece/test_model.model"
    if pieces.exists():
        large = dict(LLAMA, vocab_size=1000)
        (folder / "config.json").write_text(json.dumps(large))
        write_safetensors(folder / "model.safetensors", random_tensors(large))
        (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
        models("import", "hf", folder, "--out", work / "pieces")
        assert '"kind" = "sentencepiece"' in (work / "pieces/model.toml").read_text(encoding="utf-8")


def check_memory(work):
    """A model in shards goes in and out a tensor at a time: memory is that of the largest, not of the model."""
    config = dict(LLAMA, hidden_size=1024, intermediate_size=4096, num_attention_heads=8, num_key_value_heads=8,
                  num_hidden_layers=8, vocab_size=1024)
    folder = work / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shapes, index = dict(shapes_of(config)), {"weight_map": {}}
    names, whole = sorted(shapes), 0
    for part in range(3):
        header, end = {}, 0
        for name in names[part::3]:
            size = 2 * shapes[name][0] * (shapes[name][1] if len(shapes[name]) == 2 else 1)
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            end += size
            index["weight_map"][name] = f"model-{part}.safetensors"
        text = json.dumps(header).encode()
        with open(folder / f"model-{part}.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)  # zeros, which take no room
        whole += end
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def peak(*arguments):
        pid = os.spawnv(os.P_NOWAIT, FURROW, [FURROW, "models", *map(str, arguments)])
        _, status, usage = os.wait4(pid, 0)
        assert status == 0, arguments
        return usage.ru_maxrss * 1024

    largest, base = 4 * 4096 * 1024, 64 << 20  # in float32; the program itself
    moved = {"import": peak("import", "hf", folder, "--out", work / "large-model"),
             "export": peak("export", "hf", work / "large-model", "--out", work / "large-again")}
    print(f"{whole >> 20} MiB in bfloat16 came in and went out in {moved['import'] >> 20} and {moved['export'] >> 20} MiB")
    for name, bytes_held in moved.items():
        assert bytes_held < base + 3 * largest < whole / 2, f"{name}: {bytes_held >> 20} MiB"


def check_story_text(work, folder):
    models("import", "llama2c", folder / "stories260K.bin", "--tokenizer", folder / "tok512.bin", "--out", work / "told")
    story = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
             "big, red ball. She wanted to play with it, but it was too high. Lily's mom said, \"Lily, let's go to the park.\" "
             "Lily was sad and didn't know what to do.\n")
    (work / "story").write_text(story * 12)
    words = story.split()
    random.Random(3).shuffle(words)
    (work / "words").write_text((" ".join(words) + "\n") * 12)
    options = ("--training.seq_len", "128")
    told = evaluate(work / "told", work / "story", *options)
    mixed = evaluate(work / "told", work / "words", *options)
    assert told["loss"] < 1.3 and told["loss"] < mixed["loss"] - 0.5, (told, mixed)  # the model's own loss is 1.2968
    print(f"stories260k: loss {told['loss']:.4f} on a story, {mixed['loss']:.4f} on its words mixed up")
    assert "no form among Hugging Face's" in models("export", "hf", work / "told", "--out", work / "told-hf")


def check_stories(work):
    folder = pathlib.Path(os.environ.get("FURROW_DATA", "data")) / "stories260k"
    if not folder.exists():
        print("stories260k is not there: its import was not tried")
        return
    out = models("import", "llama2c", folder / "stories260K.bin", "--out", work / "stories")
    assert "llama, 260,032 parameters, vocabulary 512, context 512" in out, out
    models("export", "hf", work / "stories", "--out", work / "stories-hf")
    assert json.loads((work / "stories-hf/config.json").read_text())["num_key_value_heads"] == 4
    check_story_text(work, folder)
    torn = work / "torn.bin"
    torn.write_bytes((folder / "stories260K.bin").read_bytes()[:-4])
    assert "shorter than its header says" in models("import", "llama2c", torn, "--out", work / "x", code=11)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for check in (check_gpt2, check_llama, check_qwen2, check_refusals, check_tokenizers, check_tokenizer_json, check_memory, check_stories):
            work = pathlib.Path(folder) / check.__name__
            work.mkdir()
            check(work)
    print("models_test: round trips are exact")
    return 0


if __name__ == "__main__":
    sys.exit(main())
