"""Adapters trained by furrow in Hugging Face's PEFT, and back.

A small gpt and a small llama are trained, then adapted with LoRA. The adapter, which PEFT loads beside transformers' model of
the first, gives the logits of the exported second, where furrow has merged it; what PEFT saves, furrow reads, with equal bits.
Needs the packages peft and transformers; exits 77 without.
"""

import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
except ImportError as error:
    print(f"peft_test: {error}: pip install peft transformers")
    sys.exit(77)

FURROW = os.environ["FURROW_BIN"]
MODELS = {
    "gpt": ("layers = 2\nheads = 2\nwidth = 32\n", ["c_attn", "c_proj", "c_fc"]),
    "llama": ("layers = 2\nheads = 4\nkv_heads = 2\nwidth = 32\n", ["q_proj", "v_proj", "down_proj"]),
}
CONFIG = """[model]
name = "{name}"
{sizes}
[training]
dataset = "text"
dataset_path = "{work}/text.txt"
seq_len = 32
local_batch_size = 4
steps = {steps}
threads = 1
[optimizer]
name = "adamw"
lr = {lr}
[data]
tokenizer = "char"
[metrics]
enable_plots = false
"""
LORA = """[checkpoint]
initial_load_path = "{work}/{name}-first/model"
[lora]
rank = 4
alpha = 8
target_modules = {targets}
"""


def furrow(*arguments):
    done = subprocess.run([FURROW, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def train(work, name, run, steps=20, lr=1e-2, more=""):
    config = work / f"{name}-{run}.toml"
    config.write_text(CONFIG.format(name=name, sizes=MODELS[name][0], work=work, steps=steps, lr=lr) + more)
    furrow("train", config, "--job.dump_folder", work / f"{name}-{run}")


def exported(work, name, run):
    folder = work / f"{name}-{run}-hf"
    furrow("models", "export", "hf", work / f"{name}-{run}", "--out", folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def check(work, name):
    lora = LORA.format(work=work, name=name, targets=str(MODELS[name][1]).replace("'", '"'))
    train(work, name, "first")
    train(work, name, "second", more=lora)
    tokens = torch.arange(60).reshape(3, 20) % 26
    base, merged = exported(work, name, "first"), exported(work, name, "second")
    folder = work / f"{name}-second/adapter"
    file = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, folder).eval()
        state = {key.replace(".default", ""): value for key, value in adapted.state_dict().items() if "lora_" in key}
        ours, theirs = merged(tokens).logits, adapted(tokens).logits
    assert state.keys() == file.keys() and all(torch.equal(state[key], file[key]) for key in file)
    apart, moved = (theirs - ours).abs().max().item(), (theirs - plain).abs().max().item()
    assert apart < 1e-4 * ours.abs().max().item(), apart
    assert moved > 100 * apart, moved  # an adapter that does nothing would pass the line above
    adapted.save_pretrained(work / f"{name}-peft")
    train(work, name, "third", steps=1, lr=1e-30, more=lora + f'adapter_path = "{work}/{name}-peft"\n')
    again = load_file(work / f"{name}-third/adapter/adapter_model.safetensors")
    assert again.keys() == file.keys() and all(torch.equal(again[key], file[key]) for key in file)
    print(f"{name}: {len(file)} tensors, logits differ by {apart:.1e} of {ours.abs().max():.1f}, the adapter moves them by {moved:.2f}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        letters = random.Random(1)
        words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(2, 7))) for _ in range(40)]
        (work / "text.txt").write_text(" ".join(letters.choices(words, k=4000)))
        for name in MODELS:
            check(work, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
