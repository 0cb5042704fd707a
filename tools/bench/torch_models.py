"""The passes of bench-vae, bench-text, bench-denoiser and bench-decode in PyTorch, on the same checkpoints and inputs.

    torch_models.py turns TASK          a pass for every line on standard input; first line out: JSON. As the programs themselves
    torch_models.py serve               a task for every line on standard input, its times for every line out; first line: what is installed

TASK is a JSON object: work (vae, text, dit, job), model, what the work takes (see the functions below), and device (cpu), dtype (f32), mode (eager, channels_last,
compile, max-autotune), threads; to serve also rounds (5), warm (2) and samples (0). Networks are diffusers', transformers' and lite-sora's own classes ($LT_LITE_SORA
is a checkout of its branch dev); without diffusers, or where it cannot be imported, the VAE is torch_plain_vae.py, and the note says so.
Attention is PyTorch's scaled_dot_product_attention, which takes its flash kernels where they fit.
"""

import json
import os
import sys
import time

import torch
from safetensors.torch import load_file

sys.path.insert(0, os.environ.get("LT_LITE_SORA", ""))
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Work:
    """run() makes a pass; layout() brings its result into Longtake's order of elements."""

    def __init__(self, network, inputs, layout, note=""):
        self.network, self.inputs, self.layout, self.note = network, inputs, layout, note

    def run(self):
        return self.network(*self.inputs)


def pattern(shape, step, task):
    """turns.h: bench_pattern."""
    values = torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float32) * step)
    return values.reshape(shape).to(device=task["device"], dtype=DTYPES[task["dtype"]])


def placed(network, task):
    network = network.to(device=task["device"], dtype=DTYPES[task["dtype"]]).eval()
    if task["mode"] == "eager" or task["work"] not in ("vae", "job"):
        return network
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        weight.data = weight.data.contiguous(memory_format=formats.get(weight.dim(), torch.contiguous_format))
    return network


def compiled(network, task):
    if task["mode"] == "compile":
        return torch.compile(network)
    return torch.compile(network, mode="max-autotune") if task["mode"] == "max-autotune" else network


# ---- the VAE ---------------------------------------------------------------------------------------------


def open_vae(task):
    try:
        from diffusers import AutoencoderKLTemporalDecoder

        return AutoencoderKLTemporalDecoder.from_pretrained(task["model"], torch_dtype=DTYPES[task["dtype"]]), ""
    except Exception as error:  # not there, or not of an age with what else is installed
        from torch_plain_vae import PlainVAE

        return PlainVAE.load(task["model"]), f"plain PyTorch, as diffusers cannot be imported ({type(error).__name__})"


def decoded(network, z):
    """By diffusers' class, or by the plain one."""
    return network.decode(z, num_frames=z.shape[0]).sample if hasattr(network, "decode") else network.decoder(z)


def vae(task):
    """part (encoder, decoder), size (WIDTHxHEIGHT), frames."""
    network, note = open_vae(task)
    network, (width, height) = placed(network, task), map(int, task["size"].split("x"))
    if task["part"] == "encoder":
        run, shape = (lambda x: network.quant_conv(network.encoder(x))), (task["frames"], height, width, 3)
    else:
        run = lambda z: decoded(network, z)
        shape = (task["frames"], height // 8, width // 8, 4)
    x = pattern(shape, 0.37, task).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.contiguous_format if task["mode"] == "eager" else torch.channels_last)
    return Work(compiled(run, task), (x,), lambda y: y.permute(0, 2, 3, 1), note)


# ---- text encoders ---------------------------------------------------------------------------------------


def text(task):
    """name (t5_xxl, clip_bigg), prompts, tokens."""
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    classes = {"t5_xxl": T5EncoderModel, "clip_bigg": CLIPTextModelWithProjection}
    network = placed(classes[task["name"]].from_pretrained(task["model"], dtype=DTYPES[task["dtype"]]), task)
    prompts, tokens = task["prompts"], task["tokens"]
    ids = (torch.arange(prompts * tokens) * 7919 % network.config.vocab_size).reshape(prompts, tokens).to(task["device"])
    return Work(compiled(lambda ids: network(input_ids=ids).last_hidden_state, task), (ids,), lambda y: y)


# ---- denoising networks ----------------------------------------------------------------------------------


def open_dit(task):
    tensors = load_file(task["model"])
    blocks, width = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}), tensors["patchify.proj_latent.weight"].shape[0]
    if task["name"] == "video_dit_v2":
        from litesora.models.video_dit import VideoDiT

        sizes = dict(dim_time=tensors["time_emb.time_embedding.0.weight"].shape[1], dim_text=tensors["blocks.0.blockA.adaln.fusion.projs.1.weight"].shape[1],
                     dim_cross=tensors["blocks.0.blockB.attn.to_k.weight"].shape[1])
        kind = VideoDiT
    else:
        from litesora.models.pixart_video_dit import PixartVideoDiT as kind

        sizes = dict(dim_text=tensors["caption_projection.0.weight"].shape[1])
    with torch.device("meta"):
        network = kind(dim_hidden=width, num_blocks=blocks, **sizes)
    network.load_state_dict(tensors, assign=True)
    return network, sizes


def dit(task):
    """name (video_dit_v2, pixart_video_dit), frames, size, tokens; cfg: two evaluations, and their mixture."""
    network, sizes = open_dit(task)
    network, step = placed(network, task), torch.tensor([500], device=task["device"])
    x = pattern((1, task["frames"], task["size"], task["size"], 4), 0.37, task).permute(0, 4, 1, 2, 3).contiguous()
    if task["name"] == "video_dit_v2":
        seconds = [torch.tensor([value], device=task["device"]) for value in (0.0, 8.0)]
        texts = (pattern((1, task["tokens"], sizes["dim_cross"]), 0.53, task), pattern((1, sizes["dim_text"]), 0.71, task))
        inputs = (x, step, *seconds, *texts)
    else:
        inputs = (x, step, pattern((1, task["tokens"], sizes["dim_text"]), 0.53, task), torch.ones(1, task["tokens"], device=task["device"]))
    network = compiled(network, task)

    def guided(*inputs):
        positive = network(*inputs)
        return positive + 3.5 * (positive - network(*inputs)) if task.get("cfg") else positive

    return Work(guided, inputs, lambda y: y.permute(0, 2, 3, 4, 1))


# ---- lite-sora's whole job -------------------------------------------------------------------------------


def narrow(vae, scale):
    """A decoder of another width in the place of lite-sora's, whose tiles and windows stay its own."""
    from litesora.models.svd_vae import SVDVAEDecoder

    class Narrow(torch.nn.Module):
        decode_video, build_mask = SVDVAEDecoder.decode_video, SVDVAEDecoder.build_mask

        def __init__(self):
            super().__init__()
            self.vae, self.conv_in = vae, vae.decoder.conv_in

        def forward(self, x):
            return decoded(self.vae, x.permute(1, 0, 2, 3) / scale).permute(1, 0, 2, 3)

    return Narrow()


def open_lite_sora(task):
    from litesora.models.svd_vae import SDVAEEncoder, SVDVAEDecoder

    tensors = load_file(f"{task['model']}/diffusion_pytorch_model.safetensors")
    if tensors["decoder.conv_in.weight"].shape[0] != 512:
        network, note = open_vae(task)
        network = placed(network, task)
        scaled = lambda x: network.quant_conv(network.encoder(x))[:, :4] * 0.18215
        return narrow(network, 0.18215), scaled, "a narrow VAE under lite-sora's tiles"
    decoder, encoder = (placed(kind.from_diffusers(state_dict=tensors), task) for kind in (SVDVAEDecoder, SDVAEEncoder))
    return decoder, encoder, ""


def frames_of(task, height, width):
    """bench-decode's frames, u8 [T,H,W,3]."""
    wave = torch.round(127.5 + 100 * torch.sin(torch.arange(1024) * (torch.pi / 512))).to(torch.uint8)
    t, y, x, c = (torch.arange(n).reshape([-1 if i == axis else 1 for i in range(4)]) for axis, n in enumerate((task["frames"], height, width, 3)))
    return wave[(8 * x + 5 * (c + 1) * y + 32 * (c + 1) * t) & 1023]


def job(task):
    """frames, height, width (latent cells), window, stride, tile, tile_stride ([h, w]); encode: from u8 frames. From host memory to host memory; in between all
    of it stays on the device, which is faster than lite-sora's own pipelines, that keep videos on the host."""
    decoder, encoder, note = open_lite_sora(task)
    dtype, height, width = DTYPES[task["dtype"]], task["height"], task["width"]
    windows = dict(batch_time=task["window"], stride_time=task["stride"], batch_height=task["tile"][0], batch_width=task["tile"][1], stride_height=task["tile_stride"][0],
                   stride_width=task["tile_stride"][1])
    if task.get("encode"):
        source = frames_of(task, 8 * height, 8 * width)
    else:
        source = pattern((task["frames"], height, width, 4), 0.37, {**task, "dtype": "f32", "device": "cpu"})

    def run(source):
        if not task.get("encode"):
            return decoder.decode_video(source.to(task["device"], dtype).permute(3, 0, 1, 2), **windows).cpu()
        latents = []
        for first in range(0, source.shape[0], 8):  # encode_video's batches, without all of the video in bf16 at once
            x = source[first : first + 8].to(task["device"]).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
            latents.append(encoder(x.contiguous(memory_format=torch.channels_last)))
        return decoder.decode_video(torch.concat(latents).permute(1, 0, 2, 3), **windows).cpu()

    return Work(run, (source,), lambda y: y.permute(1, 2, 3, 0), note)


# ---- passes ----------------------------------------------------------------------------------------------

WORKS = {"vae": vae, "text": text, "dit": dit, "job": job}


def complete(task):
    task = {"device": "cpu", "dtype": "f32", "mode": "eager", **task}
    if task.get("threads"):
        torch.set_num_threads(task["threads"])
    return task


def wait(task):
    if task["device"].startswith("cuda"):
        torch.cuda.synchronize()


def seconds(work, task):
    wait(task)
    wall, cpu = time.perf_counter(), time.process_time()
    result = work.run()
    wait(task)
    return time.perf_counter() - wall, time.process_time() - cpu, result


def turns(task):
    task = complete(task)
    work = WORKS[task["work"]](task)
    result = work.run()
    if task.get("out"):
        work.layout(result).float().contiguous().numpy().tofile(task["out"])
    print(json.dumps({"mode": task["mode"], "note": work.note}), flush=True)
    for _ in sys.stdin:
        print("{:.6f} {:.6f}".format(*seconds(work, task)[:2]), flush=True)


def sampled(work, result, count):
    """turns.h: bench_keep."""
    values = work.layout(result).float().reshape(-1)
    at = torch.arange(count, device=values.device) * max(values.numel() // max(count, 1), 1) % values.numel()
    return [float(f"{v:.6g}") for v in values[at].tolist()]


def matmul(task):
    """TFLOP/s of a square product of random numbers, the best of ten."""
    size, dtype = task["size"], DTYPES[task["dtype"]]
    a, b = (torch.randn(size, size, device=task["device"]).to(dtype) for _ in range(2))
    work = Work(torch.matmul, (a, b), lambda y: y)
    return {"tflops": 2 * size**3 / min(seconds(work, task)[0] for _ in range(10)) / 1e12}


def answer(task):
    task = complete(task)
    if task["work"] == "matmul":
        return matmul(task)
    work = WORKS[task["work"]](task)
    first = work.run()
    samples = sampled(work, first, task.get("samples", 0))
    del first
    for _ in range(task.get("warm", 2) - 1):
        work.run()
    return {"times": [seconds(work, task)[0] for _ in range(task.get("rounds", 5))], "samples": samples, "note": work.note}


def serve():
    versions = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        try:
            said = answer(json.loads(line))
        except Exception as error:  # one task's failure is an entry of the table
            said = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        torch._dynamo.reset()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        serve() if sys.argv[1] == "serve" else turns(json.loads(sys.argv[2]))
