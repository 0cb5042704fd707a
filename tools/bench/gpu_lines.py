"""gpu_lines - the lines of the GPU's table: work, shapes, and what is to be reached. A part of tools/gpu-check.

A line is a pass of one of the bench programs, and the same pass in PyTorch. Shapes are those of the table; small ones are for rehearsals.
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
