"""The same passes as bench-denoiser with lite-sora's own VideoDiT v2 and PixartVideoDiT; $LT_LITE_SORA is a checkout of its branch dev.

    torch_dit.py NAME FRAMES SIZE TOKENS THREADS f32|bf16 eager|compile
    torch_dit.py --make NAME FILE        the network of that name at full width, of four blocks, with random weights, bf16
"""

import json
import os
import sys
import time

import torch

sys.path.insert(0, os.environ["LT_LITE_SORA"])
from litesora.models.pixart_video_dit import PixartVideoDiT
from litesora.models.video_dit import VideoDiT

BLOCKS = 4
CLASSES = {"video_dit_v2": VideoDiT, "pixart_video_dit": PixartVideoDiT}


def network(name):
    torch.manual_seed(0)
    model = CLASSES[name](num_blocks=BLOCKS).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("scale_shift_table"):
                parameter.normal_(0, 0.3)
    return model


def make(name, path):
    from safetensors.torch import save_file
    save_file({k: v.contiguous() for k, v in network(name).bfloat16().state_dict().items()}, path)


def main(name, frames, size, tokens, threads, dtype, mode):
    torch.set_num_threads(int(threads))
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = network(name).to(dtype)
    x = torch.randn(1, 4, int(frames), int(size), int(size), dtype=dtype)
    step = torch.tensor([500])
    if name == "video_dit_v2":
        inputs = (x, step, torch.zeros(1), torch.full((1,), 8.0), torch.randn(1, int(tokens), 768, dtype=dtype), torch.randn(1, 768, dtype=dtype))
    else:
        inputs = (x, step, torch.randn(1, int(tokens), 4096, dtype=dtype), torch.ones(1, int(tokens)))
    if mode == "compile":
        model = torch.compile(model)
    with torch.inference_mode():
        model(*inputs)
        print(json.dumps({"mode": mode}), flush=True)
        for _ in sys.stdin:
            started, cpu = time.perf_counter(), time.process_time()
            model(*inputs)
            print(f"{time.perf_counter() - started:.6f} {time.process_time() - cpu:.6f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
