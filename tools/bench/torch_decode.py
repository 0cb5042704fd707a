"""The same passes as bench-decode with lite-sora's own SVDVAEDecoder.decode_video; $LT_LITE_SORA is a checkout of its branch dev.

    torch_decode.py MODEL TxHxW WINDOW STRIDE TILExTILE STRIDExSTRIDE THREADS OUT
"""

import json
import os
import sys
import time

import torch
from safetensors.torch import load_file

sys.path.insert(0, os.environ["LT_LITE_SORA"])
from litesora.models.svd_vae import SVDVAEDecoder


def main(model, size, window, stride, tile, tile_stride, threads, out):
    torch.set_num_threads(int(threads))
    frames, height, width = map(int, size.split("x"))
    tiles, strides = (list(map(int, text.split("x"))) for text in (tile, tile_stride))
    state = {k: v.float() for k, v in load_file(f"{model}/diffusion_pytorch_model.safetensors").items()}
    vae = SVDVAEDecoder.from_diffusers(state_dict=state).eval()
    # bench-decode's pattern, which lies [T,h,w,C]
    latents = torch.sin(torch.arange(frames * height * width * 4, dtype=torch.float32) * 0.37).reshape(frames, height, width, 4).permute(3, 0, 1, 2)

    def run():
        return vae.decode_video(latents, batch_time=int(window), batch_height=tiles[0], batch_width=tiles[1], stride_time=int(stride),
                                stride_height=strides[0], stride_width=strides[1])

    with torch.inference_mode():
        run().permute(1, 2, 3, 0).contiguous().numpy().tofile(out)
        print(json.dumps({"mode": "eager"}), flush=True)
        for _ in sys.stdin:
            started, cpu = time.perf_counter(), time.process_time()
            run()
            print(f"{time.perf_counter() - started:.6f} {time.process_time() - cpu:.6f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
