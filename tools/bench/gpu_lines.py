"""gpu_lines - the lines of the GPU's table: work, shapes, and what is to be reached. A part of tools/gpu-check.

A line is a pass of one of the bench programs, and the same pass in PyTorch. Shapes are those of the table; small ones are for rehearsals.

What a pass is made of, by arithmetic alone: dry runs count the products; norms are taken to read and write each element once, in bf16, and weights to be read
once. Nothing of it was measured. A line whose products are few for a byte is the first to be held back by memory, and not by the matrix units.

    line              products, TFLOP   conv  linear  attention   norms, GB   products, FLOP a byte of norms   weights, GB
    encode_576                  20.9     93 %     1 %       7 %        17.5                            1,190           0.1
    decode_576                 173.6     97 %     0 %       3 %       187.3                              930           0.1
    encode_1080                 85.7     79 %     1 %      20 %        61.6                            1,390           0.1
    decode_1080                648.7     91 %     0 %       8 %       658.6                              980           0.1
    video_dit_v2                33.2      0 %    46 %      54 %         6.5                            5,100           2.0
    pixart_video_dit            34.7      0 %    49 %      51 %         4.3                            8,060           1.2
    t5_xxl                       8.9      0 %    99 %       1 %         0.8                           11,600           9.5
    clip_bigg                    0.8      0 %    99 %       1 %         0.2                            3,820           1.4

So the VAE's halves are convolutions with a byte of norms for every thousand products: norms that take two passes, or upsampled tensors that are written, cost more
than any convolution can win. The denoisers are attention over 8,192 tokens as much as linear maps. The text encoders read all their weights for 960 and 616
rows of tokens, 940 and 560 products a byte, and bigG is 32 layers in less than a TFLOP: there the gaps between kernels count.
"""

from dataclasses import dataclass, field


@dataclass
class Line:
    name: str
    title: str
    network: str        # of networks.py
    program: list       # and its arguments but the model's; DTYPE and THREADS are put in
    small: list         # the same on a small shape
    task: dict          # of torch_models.py
    task_small: dict
    share: float = 0    # of the matrix ceiling, at least; 0: nothing is asked
    ratio: float = 0    # of PyTorch's time, at least
    against: tuple = ("eager", "compile")  # the fastest of these
    whole: list = field(default_factory=list)  # of a shortened job: the arguments of the whole
    whole_task: dict = field(default_factory=dict)
    rounds: int = 5


def vae(part, size, small, frames, small_frames, share):
    def program(size, frames):
        return ["bench-vae", part, size, str(frames), "THREADS", "DTYPE"]

    def task(size, frames):
        return dict(work="vae", part=part, size=size, frames=frames)

    verb, short = ("encode", "frames") if part == "encoder" else ("decode", "frames, a window")
    return Line(f"{verb}_{size.split('x')[1]}", f"SVD VAE {verb}, {frames} {short}, {size}", "svd_vae", program(size, frames), program(small, small_frames), task(size, frames),
                task(small, small_frames), share, 2.0)


def dit(name, title, tokens):
    def program(frames, size):
        return ["bench-denoiser", str(frames), str(size), str(tokens), "THREADS", "DTYPE", "--cfg"]

    def task(frames, size):
        return dict(work="dit", name=name, frames=frames, size=size, tokens=tokens, cfg=True)

    return Line(name, f"{title} step, 128 frames of 512x512, CFG", name, program(128, 64), program(4, 8), task(128, 64), task(4, 8), 0.5, 1.3, ("compile",))


def text(name, title, tokens):
    program = ["bench-text", "8", str(tokens), "THREADS", "DTYPE"]
    task = dict(work="text", name=name, prompts=8, tokens=tokens)
    return Line(name, f"{title}, {tokens} tokens, batch 8", name, program, ["bench-text", "2", *program[2:]], task, {**task, "prompts": 2}, 0, 1.2, ("compile",), rounds=20)


JOB_FRAMES, SHORT_FRAMES = 1024, 48  # of 1024x1024; time is scaled by the FLOPs of both


def job(name, title, window, stride, ratio):
    """Windows as given, in tiles of whole frames; PyTorch's side is lite-sora with its own windows and tiles."""

    def program(frames, cells, window, stride):
        return ["bench-decode", f"{frames}x{cells}x{cells}", str(window), str(stride), f"{cells}x{cells}", f"{cells}x{cells}", "THREADS", "-", "DTYPE", "--encode"]

    def task(frames, cells, window, stride, tile):
        return dict(work="job", frames=frames, height=cells, width=cells, window=window, stride=stride, tile=[tile, tile], tile_stride=[tile // 2, tile // 2], encode=True)

    return Line(name, f"encode_video + decode_video, 1024 frames of 1024x1024, {title}", "svd_vae", program(SHORT_FRAMES, 128, window, stride),
                program(6, 4, 4, 2 if stride == 16 else 3), task(SHORT_FRAMES, 128, 32, 16, 64), task(6, 4, 4, 2, 2), 0, ratio, ("eager",),
                program(JOB_FRAMES, 128, window, stride), task(JOB_FRAMES, 128, 32, 16, 64), 3)


LINES = [
    vae("encoder", "1024x576", "48x32", 8, 2, 0.55),
    vae("decoder", "1024x576", "48x32", 25, 3, 0.50),
    vae("encoder", "1920x1080", "56x40", 8, 1, 0.55),
    vae("decoder", "1920x1080", "56x40", 25, 2, 0.50),
    dit("video_dit_v2", "VideoDiT v2", 77),
    dit("pixart_video_dit", "PixartVideoDiT", 120),
    text("t5_xxl", "T5-xxl", 120),
    text("clip_bigg", "OpenCLIP bigG", 77),
    job("job_own", "lite-sora's time windows", 32, 16, 6.0),
    job("job_default", "default windows", 32, 24, 8.0),
]
STREAM_GOAL = 30.0  # frames a second


def lite_sora_program(task):
    """bench-decode's arguments for lite-sora's own windows and tiles: what its FLOPs are."""
    height, width = task["height"], task["width"]
    return ["bench-decode", f"{task['frames']}x{height}x{width}", str(task["window"]), str(task["stride"]), "x".join(map(str, task["tile"])),
            "x".join(map(str, task["tile_stride"])), "THREADS", "-", "DTYPE", "--encode"]
