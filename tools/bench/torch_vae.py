"""The same passes as bench-vae in PyTorch, with diffusers' own classes.

    torch_vae.py MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS eager|channels_last|compile
    torch_vae.py --make FOLDER          a full-size SVD VAE with random weights, f16
"""

import json
import sys
import time

import torch
from diffusers import AutoencoderKLTemporalDecoder

SVD = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4)


def make(folder):
    torch.manual_seed(0)
    AutoencoderKLTemporalDecoder(**SVD).half().save_pretrained(folder)


def main(model, part, size, frames, threads, mode):
    torch.set_num_threads(int(threads))
    width, height = map(int, size.split("x"))
    frames = int(frames)
    vae = AutoencoderKLTemporalDecoder.from_pretrained(model, torch_dtype=torch.float32).eval()
    if mode == "channels_last":
        vae = vae.to(memory_format=torch.channels_last)
    if part == "encoder":
        network, shape = (lambda x: vae.quant_conv(vae.encoder(x))), (frames, 3, height, width)
    else:
        network, shape = (lambda x: vae.decode(x, num_frames=frames).sample), (frames, 4, height // 8, width // 8)
    if mode == "compile":
        network = torch.compile(network)
    x = torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float32) * 0.37).reshape(shape)
    if mode == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(x)
        print(json.dumps({"mode": mode}), flush=True)
        for _ in sys.stdin:
            started = time.perf_counter()
            network(x)
            print(f"{time.perf_counter() - started:.6f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2])
    else:
        main(*sys.argv[1:])
