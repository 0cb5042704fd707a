"""The plain loop that precomputes latents in Python: PyAV decodes, diffusers encodes, a safetensors file a clip.

    torch_precompute.py MODEL FOLDER OUT THREADS eager|channels_last

A pass over all clips of the folder for every line on standard input; prints its seconds.
"""

import json
import pathlib
import shutil
import sys
import time

import av
import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import save_file

BATCH = 8


def encode(vae, path, out, channels_last):
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    latents = []
    for first in range(0, len(frames), BATCH):
        x = torch.from_numpy(np.stack(frames[first : first + BATCH])).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        latents.append(vae.encode(x).latent_dist.mean.contiguous())
    save_file({"latent": torch.cat(latents)}, out / f"{path.stem}.safetensors")


def main(model, folder, out, threads, mode):
    torch.set_num_threads(int(threads))
    vae = AutoencoderKLTemporalDecoder.from_pretrained(model, torch_dtype=torch.float32).eval()
    if mode == "channels_last":
        vae = vae.to(memory_format=torch.channels_last)
    clips = sorted(pathlib.Path(folder).glob("*.mp4"))
    out = pathlib.Path(out)
    with torch.inference_mode():
        out.mkdir(exist_ok=True)
        encode(vae, clips[0], out, mode == "channels_last")
        print(json.dumps({"mode": mode}), flush=True)
        for _ in sys.stdin:
            shutil.rmtree(out)
            out.mkdir()
            started = time.perf_counter()
            for clip in clips:
                encode(vae, clip, out, mode == "channels_last")
            print(f"{time.perf_counter() - started:.6f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
