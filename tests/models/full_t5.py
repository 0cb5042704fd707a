#!/usr/bin/env python3
"""T5-xxl's encoder at full size: its memory, and its numbers against transformers in float64. A study, not part of tools/check.

    tests/models/full_t5.py [--folder FOLDER] [--layers 24] [--dtype f32]

Needs torch, transformers, safetensors, 9.6 GB of disk (in FOLDER, which is kept, else in a temporary one) and about 4 GB of memory. Weights are
random, in one bf16 file. modelrun encodes prompts of 120 tokens, packing a layer at a time: its anonymous memory must stay below 2 GB. The
reference is transformers' own layer, given one layer's weights after the other, in float64 and, to compare with, in the same dtype: 24 layers of
random weights enlarge every rounding.
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LT_BIN", ROOT / "build" / "bin"))
XXL = dict(d_model=4096, d_kv=64, d_ff=10240, num_heads=64, feed_forward_proj="gated-gelu")
VOCAB, LENGTH, PROMPTS = 32128, 120, (120, 37, 5)  # tokens that are no padding
LIMIT = 2 << 30
RELATIVE = "layer.0.SelfAttention.relative_attention_bias.weight"


def shapes(layers):
    with torch.device("meta"):
        model = T5EncoderModel(T5Config(vocab_size=VOCAB, num_layers=layers, **XXL))
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}


def write(folder, layers):
    """Every tensor random, at the scale a trained one has; a tensor at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(model_type="t5", vocab_size=VOCAB, num_layers=layers, **XXL)
    (folder / "config.json").write_text(json.dumps(config))
    wanted, header, offset = shapes(layers), {}, 0
    for name, shape in wanted.items():
        n = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + n]}
        offset += n
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(wanted.items()):
            values = torch.randn(shape, generator=torch.Generator().manual_seed(number))
            if len(shape) == 1:
                values = 1 + 0.1 * values
            elif name.endswith(".q.weight"):
                values *= 0.1 * shape[1] ** -0.5
            elif name != "shared.weight" and not name.endswith(RELATIVE):
                values *= shape[1] ** -0.5
            file.write(values.bfloat16().view(torch.uint8).numpy().tobytes())


def anonymous(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def ours(folder, ids, mask, dtype, work):
    save_file({"input_ids": ids, "attention_mask": mask}, work / "in.safetensors")
    started, most = time.monotonic(), 0
    process = subprocess.Popen([BIN / "modelrun", folder, "--in", work / "in.safetensors", "--out", work / "out.safetensors", "--dtype", dtype])
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    print(f"{dtype}: {time.monotonic() - started:.0f} s, anonymous memory {most / 2**20:.0f} MiB", flush=True)
    with safe_open(work / "out.safetensors", "pt") as file:
        return file.get_tensor("last_hidden_state").double(), most


def reference(folder, ids, mask, layers, dtype):
    model = T5EncoderModel(T5Config(vocab_size=8, num_layers=1, attn_implementation="eager", **XXL)).to(dtype).eval()
    block, norm = model.encoder.block[0], model.encoder.final_layer_norm
    model.encoder.final_layer_norm = torch.nn.Identity()
    with safe_open(folder / "model.safetensors", "pt") as file, torch.no_grad():
        state = torch.nn.functional.embedding(ids, file.get_tensor("shared.weight")).to(dtype)
        for layer in range(layers):
            block.load_state_dict({k: file.get_tensor(f"encoder.block.{0 if k == RELATIVE else layer}.{k}") for k in block.state_dict()})
            state = model.encoder(inputs_embeds=state, attention_mask=mask).last_hidden_state
        norm.weight.copy_(file.get_tensor("encoder.final_layer_norm.weight"))
        return norm(state).double()


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


def study(folder, work, args):
    if not (folder / "model.safetensors").exists():
        write(folder, args.layers)
    ids, mask = torch.zeros(len(PROMPTS), LENGTH, dtype=torch.int64), torch.zeros(len(PROMPTS), LENGTH, dtype=torch.int64)
    for row, n in enumerate(PROMPTS):
        ids[row, :n] = (torch.arange(n) * 7919 + 1000003 * row) % (VOCAB - 3) + 3
        mask[row, :n] = 1
    got, most = ours(folder, ids, mask, args.dtype, work)
    wanted = reference(folder, ids, mask, args.layers, torch.float64)
    low, bound, factor = {"f32": (torch.float32, 1e-5, 1.5), "bf16": (torch.bfloat16, 3e-2, 1.25)}[args.dtype]
    theirs = error(reference(folder, ids, mask, args.layers, low), wanted)
    l2, bound = error(got, wanted), max(bound, factor * theirs)
    print(f"L2 {l2:.2e}; transformers' own in {args.dtype} {theirs:.2e}; bound {bound:.1e}")
    return most <= LIMIT and l2 <= bound


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longtake-t5-") as work:
        good = study(args.folder or pathlib.Path(work) / "model", pathlib.Path(work), args)
    return 0 if good else 1


sys.exit(main())
