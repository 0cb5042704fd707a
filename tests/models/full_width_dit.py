#!/usr/bin/env python3
"""The diffusion transformers at their full size against lite-sora's and diffusers' code in float64: a study, not part of tools/check.
Needs torch, diffusers, einops, safetensors and a checkout of lite-sora's branch dev.

    tests/models/full_width_dit.py LITE_SORA [video_dit_v2] [pixart_video_dit] [pixart]

Every parameter is random and of bf16, in which the file is (2 GB at most, in $TMPDIR). One step of a few tokens: modelrun computes in f32
and in bf16; bounds: L2 1e-5 and 3e-2, and twice that for the largest difference. About 10 GB of memory.
"""

import argparse
import gc
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LT_BIN", ROOT / "build" / "bin"))


def randomise(model):
    """Values of PyTorch's own scale, a little uneven everywhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("scale_shift_table"):
                p.copy_(0.3 * noise)
            else:
                p.copy_(0.1 * noise if p.dim() == 1 else noise / p[0].numel() ** 0.5)


def video_dit_v2():
    from litesora.models.video_dit import VideoDiT
    x = {"hidden_states": torch.randn(1, 4, 4, 8, 12), "cross_emb": torch.randn(1, 77, 768), "text_emb": torch.randn(1, 768),
         "timesteps": torch.tensor([500.0]), "start_sec": torch.zeros(1), "end_sec": torch.full((1,), 8.0)}
    return VideoDiT(), x, lambda m, x: m(x["hidden_states"], x["timesteps"], x["start_sec"].float(), x["end_sec"].float(), x["cross_emb"],
                                         x["text_emb"])


def pixart_video_dit():
    from litesora.models.pixart_video_dit import PixartVideoDiT
    x = {"hidden_states": torch.randn(1, 4, 4, 8, 12), "text_emb": torch.randn(1, 120, 4096), "timesteps": torch.tensor([500.0]),
         "text_flag": (torch.arange(120) < 13)[None].float()}
    return PixartVideoDiT(), x, lambda m, x: m(x["hidden_states"], x["timesteps"], x["text_emb"], x["text_flag"])


def pixart():
    model = PixArtTransformer2DModel(sample_size=64, caption_channels=4096)
    x = {"hidden_states": torch.randn(1, 4, 4, 6), "encoder_hidden_states": torch.randn(1, 120, 4096), "timestep": torch.tensor([500.0]),
         "encoder_attention_mask": (torch.arange(120) < 13)[None].float()}
    return model, x, lambda m, x: m(x["hidden_states"], encoder_hidden_states=x["encoder_hidden_states"], timestep=x["timestep"],
                                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                                    encoder_attention_mask=x["encoder_attention_mask"], return_dict=False)[0].chunk(2, 1)[0]


def compare(label, got, wanted, bound):
    got, wanted = got.double(), wanted.double()
    l2 = ((got - wanted).norm() / wanted.norm()).item()
    largest = ((got - wanted).abs().max() / wanted.abs().max()).item()
    good = l2 <= bound and largest <= 2 * bound
    print(f"{label:24} L2 {l2:.2e}  max {largest:.2e}  {'ok' if good else 'TOO FAR'}", flush=True)
    return good


def check(name, make, folder):
    torch.manual_seed(2)
    with torch.no_grad():
        model, x, forward = make()
        randomise(model)
        model = model.to(torch.bfloat16)
        x = {k: v.bfloat16().float() for k, v in x.items()}
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        save_file({k: v.contiguous() for k, v in x.items()}, folder / "in.safetensors")
        model = model.double().eval()
        wanted = forward(model, {k: v if k.startswith("timestep") else v.double() for k, v in x.items()})
    print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, output deviation {wanted.std():.3f}", flush=True)
    del model, forward
    gc.collect()
    good = True
    for dtype, bound in (("f32", 1e-5), ("bf16", 3e-2)):
        subprocess.run([BIN / "modelrun", folder / "model.safetensors", "--part", "transformer", "--in", folder / "in.safetensors",
                        "--out", folder / "out.safetensors", "--dtype", dtype], check=True)
        good &= compare(f"  {dtype}", load_file(folder / "out.safetensors")["sample"], wanted, bound)
    return good


def main():
    cases = {f.__name__: f for f in (video_dit_v2, pixart_video_dit, pixart)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lite_sora")
    parser.add_argument("cases", nargs="*", choices=[*cases, []])
    args = parser.parse_args()
    sys.path.insert(0, args.lite_sora)
    good = True
    for name in args.cases or cases:
        with tempfile.TemporaryDirectory(prefix="longtake-full-") as folder:
            good &= check(name, cases[name], pathlib.Path(folder))
    sys.exit(0 if good else 1)


main()
