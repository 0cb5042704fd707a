#!/usr/bin/env python3
"""The SVD VAE at its full width against diffusers in float64: a study, not part of tools/check. Needs torch, diffusers, safetensors.

    tests/models/full_width.py [--size 64] [--frames 3]

Every parameter is random (norms and mix factors too). modelrun computes in f32, from the same weights in f32, and in bf16, from the
weights rounded to it; bounds: L2 1e-5 and 3e-2, and twice that for the largest difference.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LT_BIN", ROOT / "build" / "bin"))


def randomise(model):
    """Values of PyTorch's own scale, a little uneven everywhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("mix_factor"):
                parameter.copy_(noise)
            elif parameter.dim() == 1:
                parameter.copy_((1 if "norm" in name and name.endswith("weight") else 0) + 0.1 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def compare(label, got, wanted, bound):
    got, wanted = got.double(), wanted.double()
    l2 = ((got - wanted).norm() / wanted.norm()).item()
    largest = ((got - wanted).abs().max() / wanted.abs().max()).item()
    good = l2 <= bound and largest <= 2 * bound
    print(f"{label:16} L2 {l2:.2e}  max {largest:.2e}  {'ok' if good else 'TOO FAR'}", flush=True)
    return good


def run(folder, part, given, name, array, dtype):
    source, result = folder / "in.safetensors", folder / "out.safetensors"
    save_file({given: array.contiguous()}, source)
    subprocess.run([BIN / "modelrun", folder, "--part", part, "--in", source, "--out", result, "--dtype", dtype], check=True)
    return load_file(result)[name]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(2)
    model = AutoencoderKLTemporalDecoder(block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
                                         layers_per_block=2, latent_channels=4, scaling_factor=0.18215).eval()
    randomise(model)
    frames = 2 * torch.rand(args.frames, 3, args.size, args.size + 8) - 1
    latent = 4 * torch.randn(args.frames, 4, args.size // 8, args.size // 8 + 1)
    good = True
    with tempfile.TemporaryDirectory(prefix="longtake-full-") as name, torch.no_grad():
        for dtype, rounded, bound in (("f32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 3e-2)):
            model = model.to(rounded).float()
            frames, latent = frames.to(rounded).float(), latent.to(rounded).float()
            model.save_pretrained(name)
            exact = model.double()
            mean = exact.encode(frames.double()).latent_dist.mean
            sample = exact.decode(latent.double(), num_frames=args.frames).sample
            good &= compare(f"encode {dtype}", run(pathlib.Path(name), "encoder", "sample", "latent", frames, dtype), mean, bound)
            good &= compare(f"decode {dtype}", run(pathlib.Path(name), "decoder", "latent", "sample", latent, dtype), sample, bound)
    sys.exit(0 if good else 1)


main()
