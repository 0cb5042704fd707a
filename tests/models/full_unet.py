#!/usr/bin/env python3
"""SDXL-3D's UNet at its full size: one step's memory and time, and its numbers against lite-sora's code in float64. A study, not part of
tools/check.

    tests/models/full_unet.py LITE_SORA [--folder FOLDER] [--dtype f32|bf16] [--no-reference]

Needs torch, einops, safetensors, a checkout of lite-sora's branch dev, 6.4 GB of disk (in FOLDER, which is kept, else in a temporary one), and
memory for all weights as they are computed with: 18 GB in f32, 6.5 GB in bf16. Every parameter is random and of bf16. The latent is one of
4x8x12. The reference converts a layer's weights to float64 when the layer is run, and lets them go again: it needs little memory. Bounds: L2 1e-5
in f32, 3e-2 in bf16, and twice that for the largest difference.
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
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LT_BIN", ROOT / "build" / "bin"))
BOUNDS = {"f32": 1e-5, "bf16": 3e-2}
BLOCK = 1 << 22


def network():
    from litesora.models.sdxl_3d_unet import SDXL3DUNet
    with torch.device("meta"):
        return SDXL3DUNet().eval()


def values_of(number, name, shape, block):
    """Normal numbers at PyTorch's own scale, from a place in a block of four million that the tensor's number tells."""
    n, start = torch.Size(shape).numel(), number * 7919 % BLOCK
    noise = block.roll(-start).repeat(-(-n // BLOCK))[:n].reshape(shape)
    if len(shape) > 1:
        return noise / noise[0].numel() ** 0.5
    return (1 if "norm" in name and name.endswith("weight") else 0) + 0.1 * noise


def write(path, model):
    """A tensor at a time."""
    wanted, header, offset = {k: tuple(v.shape) for k, v in model.state_dict().items()}, {}, 0
    for name, shape in wanted.items():
        n = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + n]}
        offset += n
    text = json.dumps(header).encode()
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(1))
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(wanted.items()):
            file.write(values_of(number, name, shape, block).bfloat16().view(torch.int16).numpy().tobytes())
    part.rename(path)


def inputs():
    torch.manual_seed(2)
    x = {"sample": torch.randn(1, 4, 4, 8, 12), "timestep": torch.tensor([500.0]), "encoder_hidden_states": torch.randn(1, 77, 2048),
         "add_text_embeds": torch.randn(1, 1280), "add_time_id": torch.tensor([512.0, 512, 0, 0, 512, 512])}
    return {k: v.bfloat16().float() for k, v in x.items()}


def reference(model, path, x):
    model.load_state_dict(load_file(path), assign=True)

    def widen(module, _):
        module.kept = {k: p.data for k, p in module.named_parameters(recurse=False)}
        for name, p in module.named_parameters(recurse=False):
            p.data = p.data.double()

    def narrow(module, _, __):
        for name, p in module.named_parameters(recurse=False):
            p.data = module.kept[name]

    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)
    with torch.inference_mode():
        return model(x["sample"].double(), x["timestep"], x["encoder_hidden_states"].double(), x["add_time_id"], x["add_text_embeds"].double())


def anonymous_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def step(folder, weights, dtype):
    """Its result, seconds, and the most anonymous memory seen."""
    begin, most = time.monotonic(), 0
    process = subprocess.Popen([BIN / "modelrun", weights, "--part", "unet", "--in", folder / "in.safetensors", "--out", folder / "out.safetensors",
                                "--dtype", dtype])
    while process.poll() is None:
        try:
            most = max(most, anonymous_bytes(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.2)
    assert process.returncode == 0, f"modelrun ended with {process.returncode}"
    return load_file(folder / "out.safetensors")["sample"], time.monotonic() - begin, most


def study(folder, args):
    weights, x, model = folder / "unet.safetensors", inputs(), network()
    count = sum(p.numel() for p in model.parameters())
    if not weights.exists():
        write(weights, model)
    save_file(x, folder / "in.safetensors")
    print(f"{count} parameters, {weights.stat().st_size / 1e9:.1f} GB", flush=True)
    results = {}
    for dtype in args.dtype or BOUNDS:
        results[dtype], seconds, most = step(folder, weights, dtype)
        assert results[dtype].isfinite().all(), f"{dtype}: numbers that are none"
        print(f"{dtype}: one step with its start {seconds:.1f} s, {most / 2**30:.2f} GiB of anonymous memory", flush=True)
    if args.no_reference:
        return True
    wanted, good = reference(model, weights, x), True
    for dtype, got in results.items():
        l2 = ((got.double() - wanted).norm() / wanted.norm()).item()
        largest = ((got.double() - wanted).abs().max() / wanted.abs().max()).item()
        good &= l2 <= BOUNDS[dtype] and largest <= 2 * BOUNDS[dtype]
        print(f"{dtype}: L2 {l2:.2e}  max {largest:.2e}  {'ok' if l2 <= BOUNDS[dtype] and largest <= 2 * BOUNDS[dtype] else 'TOO FAR'}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lite_sora")
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--dtype", action="append", choices=list(BOUNDS))
    parser.add_argument("--no-reference", action="store_true")
    args = parser.parse_args()
    sys.path.insert(0, args.lite_sora)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        sys.exit(0 if study(args.folder, args) else 1)
    with tempfile.TemporaryDirectory(prefix="longtake-full-") as folder:
        sys.exit(0 if study(pathlib.Path(folder), args) else 1)


if __name__ == "__main__":
    main()
