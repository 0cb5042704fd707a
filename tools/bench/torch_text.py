"""The same passes as bench-text with transformers' own T5EncoderModel.

    torch_text.py MODEL PROMPTS TOKENS THREADS f32|bf16
    torch_text.py --make FOLDER          a T5-xxl of one layer and few tokens with random weights, bf16
"""

import json
import sys
import time

import torch
from transformers import T5Config, T5EncoderModel

XXL = dict(vocab_size=512, d_model=4096, d_kv=64, d_ff=10240, num_layers=1, num_heads=64, feed_forward_proj="gated-gelu")


def make(folder):
    torch.manual_seed(0)
    T5EncoderModel(T5Config(**XXL)).bfloat16().save_pretrained(folder)


def main(model, prompts, tokens, threads, dtype):
    torch.set_num_threads(int(threads))
    network = T5EncoderModel.from_pretrained(model, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype]).eval()
    prompts, tokens = int(prompts), int(tokens)
    ids = (torch.arange(prompts * tokens) * 7919 % network.config.vocab_size).reshape(prompts, tokens)
    with torch.inference_mode():
        network(input_ids=ids)
        print(json.dumps({"dtype": dtype}), flush=True)
        for _ in sys.stdin:
            started, cpu = time.perf_counter(), time.process_time()
            network(input_ids=ids)
            print(f"{time.perf_counter() - started:.6f} {time.process_time() - cpu:.6f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2])
    else:
        main(*sys.argv[1:])
