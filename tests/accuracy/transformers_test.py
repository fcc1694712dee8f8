"""Models of Hugging Face's transformers here, and back.

GPT-2, Llama and Qwen2 with made-up parameters, as transformers saves them: what our network says is what theirs says, within 1e-4;
exported they are, in transformers, the same bits; Qwen2's tokenizer gives the same ids here and, exported, there; a network that
training started from them has left the start, and goes out as well.
Needs the packages transformers and tokenizers; exits 77 without.
"""

import json
import os
import pathlib
import random
import string
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import (AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                              Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer)
except ImportError as error:
    print(f"transformers_test: {error}: pip install transformers")
    sys.exit(77)

FURROW = os.environ["FURROW_BIN"]
LOGITS = pathlib.Path(os.environ["FURROW_BUILD_DIR"]) / "test_bin/model_logits"
VOCABULARY, CONTEXT, SAMPLES = 320, 48, 3
SIZES = dict(vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=CONTEXT)
NETWORKS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=6, n_positions=CONTEXT)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True,
                                            rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2-untied": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
}


def furrow(*arguments):
    done = subprocess.run([FURROW, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"


def ours(folder, work):
    out = work / "logits"
    done = subprocess.run([str(LOGITS), str(folder), str(work / "tokens"), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    numbers = torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.float32)
    return numbers.view(SAMPLES, CONTEXT, VOCABULARY)


def made_up(name):
    """Parameters large enough that attention and biases matter."""
    make, config = NETWORKS[name]
    torch.manual_seed(1)
    network = make(config).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            scale = 0.02 if "embed" in key or "wte" in key or "wpe" in key or "lm_head" in key else 0.15
            parameter.normal_(1 if "norm" in key or "ln_" in key and key.endswith("weight") else 0, scale)
    return network


def check_network(work, name, tokens):
    network = made_up(name)
    network.save_pretrained(work / name)
    furrow("models", "import", "hf", work / name, "--out", work / f"{name}-model")
    with torch.no_grad():
        theirs = network(tokens).logits
    apart = (ours(work / f"{name}-model", work) - theirs).abs().max().item()
    assert apart < 1e-4, f"{name}: logits differ by {apart}"
    furrow("models", "export", "hf", work / f"{name}-model", "--out", work / f"{name}-again")
    again = AutoModelForCausalLM.from_pretrained(work / f"{name}-again", dtype=torch.float32).eval()
    assert type(again) is type(network)
    for (key, first), (other, second) in zip(network.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == other and torch.equal(first, second), key
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, theirs)
    moved = check_control(work, name, theirs)
    print(f"{name}: logits of up to {theirs.abs().max():.1f} differ by {apart:.1e}; a bias or norm away they differ by {moved:.2f}")


def check_control(work, name, theirs):
    """The same with one small vector of the first block at zero."""
    file = work / name / "model.safetensors"
    tensors = load_file(file)
    lost = {"gpt2": "transformer.h.0.attn.c_attn.bias", "llama": "model.layers.0.input_layernorm.weight"}
    tensors[lost.get(name, "model.layers.0.self_attn.q_proj.bias")].zero_()
    save_file(tensors, file, {"format": "pt"})
    furrow("models", "import", "hf", work / name, "--out", work / f"{name}-control")
    moved = (ours(work / f"{name}-control", work) - theirs).abs().max().item()
    assert moved > 1e-2, f"{name}: the control moves them by {moved}"
    return moved


def made_up_text(seed, letters):
    source = random.Random(seed)
    words = ["".join(source.choices(letters, k=source.randint(1, 6))) for _ in range(60)]
    return "".join(source.choice(words) + source.choice([" ", " ", ", ", "\n", "  ", "'s ", " 123 "]) for _ in range(1500))


def check_tokenizer(work):
    """Learnt merges under Qwen2's own normalizer, pattern and special tokens."""
    odd = string.ascii_lowercase[:9] + "\u00e9\u4f60\u0663"
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = Qwen2Tokenizer()._tokenizer.pre_tokenizer
    learnt.train_from_iterator([made_up_text(1, odd)], trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = learnt.get_vocab()
    merges = [tuple(pair) for pair in json.loads(learnt.to_str())["model"]["merges"]]
    theirs = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    theirs.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    network = made_up("qwen2")
    network.save_pretrained(work / "spoken")
    theirs.save_pretrained(work / "spoken")
    furrow("models", "import", "hf", work / "spoken", "--out", work / "spoken-model")
    furrow("models", "export", "hf", work / "spoken-model", "--out", work / "spoken-again")
    again = AutoTokenizer.from_pretrained(work / "spoken-again")
    text = made_up_text(2, odd + "xyz") + "e\u0301 <|im_start|>user\ncafe\u0301<|im_end|> \u2167\u00bd\t\r\n"
    assert theirs(text).input_ids == again(text).input_ids and len(theirs(text).input_ids) > 1000
    assert theirs("e\u0301").input_ids == theirs("\u00e9").input_ids, "NFC"
    check_training(work, network, text)


TRAIN = """[model]
name = "llama"
qkv_bias = true
tie_embeddings = true
width = 48
layers = 3
heads = 6
kv_heads = 2
ffn_width = 80
norm_eps = 1e-6
rope_theta = 1e6
vocab_size = 320
[training]
dataset = "text"
dataset_path = "{work}/text.txt"
seq_len = 48
local_batch_size = 4
steps = 12
threads = 1
[data]
tokenizer = "hf"
tokenizer_path = "{work}/spoken/tokenizer.json"
[optimizer]
lr = 1e-3
[checkpoint]
initial_load_path = "{work}/spoken-model"
"""


def check_training(work, network, text):
    (work / "text.txt").write_text(text * 4, encoding="utf-8")
    (work / "train.toml").write_text(TRAIN.format(work=work))
    furrow("train", work / "train.toml", "--job.dump_folder", work / "run")
    furrow("models", "export", "hf", work / "run")
    trained = AutoModelForCausalLM.from_pretrained(work / "run/hf", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(work / "run/hf")(text).input_ids[: 40 * CONTEXT]
    batch = torch.tensor(ids).view(-1, CONTEXT)
    with torch.no_grad():
        before, after = (model(batch, labels=batch).loss.item() for model in (network, trained))
    assert after < before - 0.1, (before, after)
    biases = [(a - b).abs().max().item() for (key, a), b in zip(network.named_parameters(), trained.parameters(), strict=True)
              if key.endswith("v_proj.bias")]
    assert min(biases) > 1e-3, biases
    print(f"qwen2: trained here, its loss in transformers went from {before:.3f} to {after:.3f}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        tokens = torch.randint(VOCABULARY, (SAMPLES, CONTEXT), generator=torch.Generator().manual_seed(2))
        (work / "tokens").write_text("".join(" ".join(map(str, row)) + "\n" for row in tokens.tolist()))
        for name in NETWORKS:
            check_network(work, name, tokens)
        check_tokenizer(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
