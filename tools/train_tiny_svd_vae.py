#!/usr/bin/env python3
"""Train the small SVD-style video VAE that the examples and the quick start use.

The model is diffusers' AutoencoderKLTemporalDecoder, the class of the Stable Video Diffusion VAE:
a per-frame encoder and a decoder with temporal layers.  Only its size differs.  It is trained for
PSNR alone (no adversarial or perceptual loss), on photographs and clips that Debian packages carry.

Data: unpack these packages (Debian 12) into one folder, and give that folder as --data:

    mkdir data; cd data
    for p in gcompris-qt-data lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds \\
             opencv-doc plasma-workspace-wallpapers python3-imageio python3-skimage \\
             python3-sklearn tuxpaint-data ukui-wallpapers wordpress-theme-twentytwentyone; do
        apt-get download $p && dpkg -x ${p}_*.deb $p
    done

Pictures that are no photographs (flat drawings, screen shots, masks) are sorted out by name and by
how much of them is flat.  The clip Megamind.avi and one picture in fourteen are kept out of the
training, for validation.  cockatoo.mp4 of python3-imageio is used in neither.

Three phases, timed by the clock, since it was made for two CPU cores (torch.compile needs a C++ compiler):

  coarse    single pictures, without the residual branches at full resolution, which start at zero
  spatial   single pictures, the whole encoder and all spatial layers of the decoder
  temporal  clips, with the decoder's temporal layers; the encoder stays as it is

Soft normalisation.  With 64 channels in 32 groups, the GroupNorms at full resolution would take away a
frame's mean and contrast.  In a residual stream STREAM_SCALE times smaller their epsilon, 1e-6, is large,
and they hardly normalise.  The training therefore multiplies those epsilons by STREAM_SCALE^2, and the
export divides the weights that write into that stream by STREAM_SCALE, which is the same function.

    python tools/train_tiny_svd_vae.py --data data --work work --out examples/tiny-svd-vae --minutes 80
    python tools/train_tiny_svd_vae.py --out examples/tiny-svd-vae --measure cockatoo.mp4

Measured after 1400 steps: validation pictures 26.15 dB, validation clip 31.05 dB, cockatoo.mp4 32.37 dB;
the linear baseline on the same sets: 23.23 dB, 26.23 dB, 25.99 dB.
"""

import argparse
import hashlib
import io
import math
import random
import re
import struct
import time
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.resnet import SpatioTemporalResBlock
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import init

CONFIG = dict(block_out_channels=(64, 32, 96, 128), layers_per_block=1, latent_channels=4, sample_size=384,
              down_block_types=("DownEncoderBlock2D",) * 4)
STREAM_SCALE = 1000.0
LOGVAR = -9.0  # the constant log variance of the posterior, which is not trained
FRAME = (216, 384)
PICTURE_WIDTHS = (384, 512, 704, 1024)

Image.MAX_IMAGE_PIXELS = None
cv2.setNumThreads(1)
torch._dynamo.config.recompile_limit = 64


# ---------------------------------------------------------------------------------------- data

NO_PHOTOGRAPH = re.compile(
    r"html/|docs?/(tuxpaint|gcompris)|screenshot|registration/tests|starters/world|/lang_|babyshapes|clickgame|"
    r"leftright|braille|gnome/|flight-path|Stripes|Ubuntu-Mate|digits|ellipses|card|chessboard|text|detect_blob|"
    r"gradient|pca_test|pic\d|mask|GT\.|result|logo|icons|multipage|hubble|cell\.|color\.png|/images/magic|fuzzy", re.I)
VALIDATION_CLIP = "Megamind.avi"
CLIPS = ("vtest.avi", "tree.avi", "realshort.mp4")


def pictures_in_qt_resource(path):
    """The WebP pictures inside a Qt resource file, which stores them as they are."""
    data = path.read_bytes()
    for found in re.finditer(rb"RIFF....WEBPVP8", data, re.S):
        size = struct.unpack("<I", data[found.start() + 4:found.start() + 8])[0]
        if size > 25_000:
            yield f"{path.stem}_{found.start()}", io.BytesIO(data[found.start():found.start() + 8 + size])


def picture_files(folder):
    """(name, file) of everything in the folder that may be a photograph, the largest files first."""
    found = []
    for path in folder.rglob("*"):
        if re.search(r"\.(jpe?g|png|webp)$", path.name, re.I) and path.is_file() and path.stat().st_size > 30_000:
            found.append((path.stat().st_size, str(path.relative_to(folder)), path))
        elif path.suffix == ".rcc":
            found += [(len(data.getbuffer()), f"{path.parent.name}/{name}", data)
                      for name, data in pictures_in_qt_resource(path)]
    for _, name, file in sorted(found, key=lambda entry: (-entry[0], entry[1])):
        if not NO_PHOTOGRAPH.search("/" + name):
            yield name, file


def looks_drawn(rgb):
    """Whether more than a third of the picture is exactly flat, as in a drawing."""
    small = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_NEAREST)
    return (small[:, 1:] == small[:, :-1]).all(axis=2).mean() > 0.35


def resize_width(rgb, width):
    return cv2.resize(rgb, (width, round(rgb.shape[0] * width / rgb.shape[1])), interpolation=cv2.INTER_AREA)


def read_pictures(folder):
    """Two lists (training, validation) of pictures; each picture is a list of its sizes."""
    training, validation, seen = [], [], set()
    for name, file in picture_files(folder):
        try:
            picture = Image.open(file)
            transparent = "A" in picture.mode and picture.getchannel("A").getextrema()[0] < 255
            if min(picture.size) < 216 or max(picture.size) < 384 or transparent:
                continue
            rgb = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError):
            continue
        thumbnail = cv2.resize(rgb, (4, 4), interpolation=cv2.INTER_AREA) // 24
        if looks_drawn(rgb) or thumbnail.tobytes() in seen:
            continue
        seen.add(thumbnail.tobytes())
        sizes = [resize_width(rgb, width) for width in PICTURE_WIDTHS if width <= rgb.shape[1]]
        sizes = [size for size in sizes if size.shape[0] >= FRAME[0]]
        if sizes:
            held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 14 == 0
            (validation if held_out else training).append(sizes)
    return training, validation


def read_clip(path, size=None, limit=None):
    """The frames of a video as one uint8 array [frame, row, column, channel]."""
    video, frames = cv2.VideoCapture(str(path)), []
    while limit is None or len(frames) < limit:
        there, bgr = video.read()
        if not there:
            break
        small = resize_width(bgr, min(512, bgr.shape[1])) if size is None else \
            cv2.resize(bgr, size[::-1], interpolation=cv2.INTER_AREA)
        frames.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    return np.stack(frames)


class Data:
    """Training pictures and clips, the validation set, and random batches of them."""

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.pictures, held_out = read_pictures(folder)
        self.clips = [read_clip(path, limit=400) for name in CLIPS for path in sorted(folder.rglob(name))[:1]]
        middles = [self.crop(sizes[0][None], *FRAME, middle=True) for sizes in held_out]
        self.validation_pictures = np.concatenate(middles)
        self.validation_clip = read_clip(next(folder.rglob(VALIDATION_CLIP)), FRAME, limit=150)[100:132]
        print(f"pictures: {len(self.pictures)} to train on, {len(held_out)} for validation", flush=True)

    def pick_picture(self, height, width):
        """A random picture in one of its sizes that is large enough."""
        while True:
            sizes = self.random.choice(self.pictures)
            fitting = [size for size in sizes if size.shape[0] >= height and size.shape[1] >= width]
            if fitting:
                return self.random.choice(fitting)

    def crop(self, frames, height, width, middle=False):
        pick = (lambda _, end: end // 2) if middle else self.random.randint
        top, left = pick(0, frames.shape[1] - height), pick(0, frames.shape[2] - width)
        return frames[:, top:top + height, left:left + width]

    def moving_picture(self, frames, height, width):
        """A clip of a picture under a steady pan, zoom and turn."""
        picture = self.pick_picture(height, width)
        speed = self.random.choice((0, 0.5, 0.5, 1.5, 1.5, 4, 4))
        pan = [self.random.gauss(0, speed) for _ in range(2)]
        zoom = 1 + self.random.gauss(0, 0.002 * speed)
        turn = self.random.gauss(0, 0.15 * speed)
        x = self.random.uniform(width / 2, picture.shape[1] - width / 2)
        y = self.random.uniform(height / 2, picture.shape[0] - height / 2)
        clip = []
        for i in range(frames):
            t = i - frames / 2
            matrix = cv2.getRotationMatrix2D((x, y), turn * t, zoom ** t)
            matrix[:, 2] += (width / 2 - x + pan[0] * t, height / 2 - y + pan[1] * t)
            clip.append(cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_CUBIC,
                                       borderMode=cv2.BORDER_REFLECT_101))
        return np.stack(clip)

    def layered_clip(self, frames, height, width):
        """One moving picture in front of another, with a soft edge that moves along."""
        back, front = (self.moving_picture(frames, height, width) for _ in range(2))
        shape = (self.random.uniform(0.2, 0.4) * width, self.random.uniform(0.2, 0.4) * height)
        move = [self.random.gauss(0, 2) for _ in range(2)]
        centre = (self.random.uniform(0, width), self.random.uniform(0, height))
        column, row = np.meshgrid(np.arange(width), np.arange(height))
        softness = self.random.uniform(0.05, 0.3)
        mixed = []
        for i in range(frames):
            distance = np.hypot((column - centre[0] - move[0] * i) / shape[0],
                                (row - centre[1] - move[1] * i) / shape[1])
            mask = np.clip((1 - distance) / softness, 0, 1)[..., None]
            mixed.append(back[i] * (1 - mask) + front[i] * mask)
        return np.stack(mixed)

    def clip(self, frames, height, width):
        kind = self.random.random()
        if kind < 0.25:
            source = self.random.choice([c for c in self.clips if c.shape[1] >= height and c.shape[2] >= width])
            start = self.random.randint(0, len(source) - frames)
            return self.crop(source[start:start + frames], height, width)
        made = self.layered_clip if kind < 0.55 else self.moving_picture
        clip = made(frames, height, width).astype(np.float32)
        grain = self.random.choice((0.0, 0.7, 1.5))
        return (clip + grain * self.noise.standard_normal(clip.shape, np.float32)).clip(0, 255)

    def batch(self, clips, frames, height, width):
        """A batch [clips * frames, 3, height, width] in [-1, 1]."""
        made = []
        for _ in range(clips):
            clip = self.clip(frames, height, width) if frames > 1 else \
                self.crop(self.pick_picture(height, width)[None], height, width)
            made.append(clip[:, :, ::-1] if self.random.random() < 0.5 else clip)
        return to_tensor(np.concatenate(made))


def to_tensor(frames):
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def squared_error(a, b):
    """Mean squared error of two tensors in [-1, 1], in 8-bit steps and after rounding to them."""
    steps = [((x.float() + 1) * 127.5).round().clamp(0, 255) for x in (a, b)]
    return (steps[0] - steps[1]).square().mean().item()


def psnr(error):
    """PSNR of frames in [0, 255] from their mean squared error."""
    return 10 * math.log10(255 ** 2 / error)


# ------------------------------------------------------------------------------ linear baseline

def blocks_of(frames):
    """All 8x8 RGB blocks of the tensor [n, 3, h, w], as [blocks, 192] in the order row, column, channel."""
    n, _, height, width = frames.shape
    return frames.reshape(n, 3, height // 8, 8, width // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 192)


def fit_pca(data, crops=6000):
    """Mean [192] and basis [4, 192] of the blocks of random training crops."""
    blocks = torch.cat([blocks_of(data.batch(50, 1, 64, 64)) for _ in range(crops // 50)]).double()
    mean = blocks.mean(0)
    _, vectors = torch.linalg.eigh(torch.cov(blocks.T))
    return {"mean": mean.float(), "basis": vectors[:, -4:].flip(1).T.float().contiguous()}


def pca_error(pca, frames):
    """Mean squared error, in 8-bit steps, of the linear baseline on uint8 frames."""
    blocks = blocks_of(to_tensor(frames))
    rebuilt = pca["mean"] + (blocks - pca["mean"]) @ pca["basis"].T @ pca["basis"]
    return squared_error(rebuilt, blocks)


# --------------------------------------------------------------------------------------- model

def build_model():
    """The model, initialised so that it starts as a nearly linear path with identity temporal layers."""
    model = AutoencoderKLTemporalDecoder(**CONFIG)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            init.zeros_(module.bias)
            module.to(memory_format=torch.channels_last)
        if name.endswith(("conv2", "to_out.0")):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
    init.dirac_(model.decoder.time_conv_out.weight)
    init.zeros_(model.decoder.time_conv_out.bias)
    init.zeros_(model.quant_conv.weight[4:])
    init.constant_(model.quant_conv.bias[4:], LOGVAR)
    model.decoder.conv_out.weight.data *= 0.1
    for norm in stream_norms(model):
        norm.eps *= STREAM_SCALE ** 2
    return model


def stream_norms(model):
    """The GroupNorms that read the decoder's residual stream at full resolution."""
    for block in model.decoder.up_blocks[-1].resnets:
        yield block.spatial_res_block.norm1
        yield block.temporal_res_block.norm1
    yield model.decoder.conv_norm_out


@torch.no_grad()
def plain_model(state):
    """The trained weights in the class as diffusers defines it, its epsilons untouched, in float16."""
    model = AutoencoderKLTemporalDecoder(**CONFIG)
    model.load_state_dict(state)
    blocks = model.decoder.up_blocks[-1].resnets
    writers = [model.decoder.up_blocks[-2].upsamplers[0].conv]
    for block in blocks:
        writers += [block.spatial_res_block.conv2, block.temporal_res_block.conv2]
    for layer in writers:
        layer.weight /= STREAM_SCALE
        layer.bias /= STREAM_SCALE
    blocks[0].spatial_res_block.conv_shortcut.bias /= STREAM_SCALE  # its input is in the stream already
    return model.half()


def route(module, forward=None):
    """Replace the module's forward, or restore it."""
    module.__dict__.pop("forward", None)
    if forward is not None:
        module.forward = lambda x, *_, **__: forward(module, x)


def route_for_phase(model, phase):
    """Let the model run only the layers that the phase trains."""
    spatial_only = lambda block, x: block.spatial_res_block(x, None)
    shortcut_only = lambda block, x: (block.spatial_res_block.conv_shortcut or torch.nn.Identity())(x)
    for module in model.decoder.modules():
        if isinstance(module, SpatioTemporalResBlock):
            route(module, None if phase == "temporal" else spatial_only)
    if phase == "coarse":
        for block in model.decoder.up_blocks[-1].resnets:
            route(block, shortcut_only)
    route(model.encoder.down_blocks[0].resnets[0], (lambda _, x: x) if phase == "coarse" else None)


# The library's backward pass of GroupNorm takes a third of a training step on the CPU: here is a compiled one.

@torch.compile(dynamic=True)
def norm_silu_backward(gradient, x, weight, bias, mean, scale):
    """Gradients of SiLU(GroupNorm(x)) for x [n, positions, channels] and mean, scale [n, 32]."""
    n, positions, channels = x.shape
    per_group = lambda values: values.view(n, 32, -1).sum(2)
    per_channel = lambda groups: groups[:, :, None].expand(n, 32, channels // 32).reshape(n, channels)
    mean, scale, values = per_channel(mean), per_channel(scale), x.float()
    y = values * (weight * scale)[:, None] + (bias - weight * scale * mean)[:, None]
    sigmoid = torch.sigmoid(y)
    dy = gradient.float() * sigmoid * (1 + y * (1 - sigmoid))
    sum_dy = dy.sum(1)
    sum_dy_x = ((dy * values).sum(1) - mean * sum_dy) * scale
    count = positions * channels // 32
    shift = per_channel(per_group(weight * sum_dy)) / count
    slope = per_channel(per_group(weight * sum_dy_x)) / count * scale * scale
    dx = (weight * scale)[:, None] * dy - slope[:, None] * values + (slope * mean - scale * shift)[:, None]
    return dx.to(x.dtype), sum_dy_x.sum(0), sum_dy.sum(0)


class NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        y, mean, scale = torch.native_group_norm(x, weight, bias, *x.shape[:2], x[0, 0].numel(), 32, eps)
        ctx.save_for_backward(x, weight, bias, mean.float(), scale.float())
        return F.silu(y)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias, mean, scale = ctx.saved_tensors
        # .data, so that the compiler sees no views
        flat = lambda t, i: t[i:i + 1].movedim(1, -1).reshape(1, -1, x.shape[1]).data
        done = [norm_silu_backward(flat(gradient, i), flat(x, i), weight, bias, mean[i:i + 1].data, scale[i:i + 1].data)
                for i in range(len(x))]  # one by one, which stays in the cache
        dx, dweight, dbias = zip(*done)
        return torch.cat(dx).view(x.movedim(1, -1).shape).movedim(-1, 1), sum(dweight), sum(dbias), None


def fuse_norms(model):
    """Let every GroupNorm that a SiLU follows do both."""
    fused = lambda norm, x: NormSiLU.apply(x, norm.weight, norm.bias, norm.eps)
    for name, module in model.named_modules():
        if name.endswith(("norm1", "norm2", "conv_norm_out")):
            route(module, fused)
        elif name.endswith(("nonlinearity", "conv_act")):
            route(module, lambda _, x: x)


@torch.no_grad()
def model_error(model, frames, window):
    """Mean squared error, in 8-bit steps, of the model on uint8 frames, decoded in windows."""
    total = 0.0
    for start in range(0, len(frames), window):
        part = to_tensor(frames[start:start + window])
        latents = torch.cat([model.encode(frame[None]).latent_dist.mean for frame in part])
        rebuilt = model.decode(latents, num_frames=len(part)).sample
        total += squared_error(rebuilt, part) * len(part)
    return total / len(frames)


def report_validation(name, error, data):
    """Print the validation PSNR of error(frames, window)."""
    pictures, clip = error(data.validation_pictures, 1), error(data.validation_clip, len(data.validation_clip))
    print(f"{name}, validation: pictures {psnr(pictures):.2f} dB, clip {psnr(clip):.2f} dB", flush=True)


# ------------------------------------------------------------------------------------ training

# Name, share of the time at which it ends, and shapes of its batches: (clips, frames, height, width).
Phase = namedtuple("Phase", "name end shapes")
RATES = (3e-3, 2e-3)  # learning rates of Muon and of AdamW
PHASES = (
    Phase("coarse", 0.42, [(10, 1, 128, 128)]),
    Phase("spatial", 0.62, [(8, 1, 128, 128)] * 4 + [(2, 1, 216, 384)]),
    Phase("temporal", 1.0, [(1, 6, 112, 112)] * 5 + [(1, 8, 128, 128), (1, 16, 96, 96), (1, 3, 216, 384)]),
)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Newton-Schulz), for the weights of convolutions."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @staticmethod
    def orthogonal(matrix):
        wide = matrix.shape[0] <= matrix.shape[1]
        x = (matrix if wide else matrix.T).bfloat16()
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return (x if wide else x.T).float()

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        for p in (p for p in group["params"] if p.grad is not None):
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(momentum, group["momentum"]).reshape(len(p), -1)
            scale = 0.2 * max(update.shape) ** 0.5
            p.add_(self.orthogonal(update).reshape(p.shape), alpha=-group["lr"] * scale)


def make_optimizers(model):
    hidden, rest = [], []
    edge = ("encoder.conv_in.", "decoder.conv_out.", "decoder.time_conv_out.", "quant_conv.")
    for name, p in model.named_parameters():
        (hidden if p.ndim > 1 and not name.startswith(edge) else rest).append(p)
    return [Muon(hidden, RATES[0]), torch.optim.AdamW(rest, RATES[1], betas=(0.9, 0.98), weight_decay=0.0)]


class Trainer:
    """The model, its moving average and its optimizers, with the share of the time already used."""

    def __init__(self, data, work, minutes):
        self.data, self.work, self.minutes = data, work, minutes
        self.model = build_model()
        fuse_norms(self.model)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimizers = make_optimizers(self.model)
        self.steps, self.elapsed, self.phase = 0, 0.0, None

    def save(self):
        state = dict(model=self.model.state_dict(), average=self.average, steps=self.steps, elapsed=self.elapsed,
                     optimizers=[o.state_dict() for o in self.optimizers], phase=self.phase.name)
        torch.save(state, self.work / "checkpoint.tmp")
        (self.work / "checkpoint.tmp").rename(self.work / "checkpoint.pt")

    def resume(self):
        path = self.work / "checkpoint.pt"
        if path.exists():
            state = torch.load(path)
            self.model.load_state_dict(state["model"])
            self.average, self.steps, self.elapsed = state["average"], state["steps"], state["elapsed"]
            for optimizer, saved in zip(self.optimizers, state["optimizers"]):
                optimizer.load_state_dict(saved)
            self.enter(next(p for p in PHASES if p.name == state["phase"]))
            self.data.random.seed(self.steps)

    def enter(self, phase):
        self.phase = phase
        route_for_phase(self.model, phase.name)
        for part in (self.model.encoder, self.model.quant_conv):
            part.requires_grad_(phase.name != "temporal")

    def step(self):
        progress = self.elapsed / (60 * self.minutes)
        phase = next((p for p in PHASES if progress < p.end), PHASES[-1])
        if phase is not self.phase:
            if phase.name == "temporal":  # go on from the average: the encoder no longer changes
                self.model.load_state_dict(self.average)
            self.enter(phase)
        rate = min(1, (self.steps + 1) / 100) * min(1, (1 - progress) / 0.5)
        for optimizer, base in zip(self.optimizers, RATES):
            optimizer.param_groups[0]["lr"] = base * max(rate, 0)

        shape = self.data.random.choice(phase.shapes)
        frames = self.data.batch(*shape)
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.model.encode(frames).latent_dist.mean
            rebuilt = self.model.decode(latents, num_frames=shape[1]).sample
        # The root of each frame's squared error: between the total error and the mean PSNR.
        error = (rebuilt.float() - frames).square().mean((1, 2, 3))
        loss = (error + 1e-5).sqrt().mean() + 1e-5 * latents.float().square().mean()
        loss.backward()
        for p in (self.model.quant_conv.weight, self.model.quant_conv.bias):
            if p.grad is not None:
                p.grad[4:] = 0
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        self.steps += 1
        decay = min(0.98 if phase.name == "temporal" else 0.996, 1 - 1 / (1 + self.steps / 5))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        return error.mean().item() * 127.5 ** 2

    @torch.no_grad()
    def validate(self):
        kept = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        with torch.autocast("cpu", torch.bfloat16):
            report_validation("average", lambda frames, window: model_error(self.model, frames, window), self.data)
        self.model.load_state_dict(kept)

    def run(self):
        errors, report, saved, check = [], *[time.time()] * 3
        while self.elapsed < 60 * self.minutes:
            began = time.time()
            errors.append(self.step())
            self.elapsed += time.time() - began
            if time.time() - report > 30:
                print(f"{self.elapsed / 60:6.1f} min  step {self.steps}  {self.phase.name}  "
                      f"training PSNR {psnr(np.mean(errors)):.2f}", flush=True)
                errors, report = [], time.time()
            if time.time() - saved > 150:
                self.save()
                saved = time.time()
            if time.time() - check > 900:
                self.validate()
                check = time.time()
        self.save()


# -------------------------------------------------------------------------------------- export

@torch.no_grad()
def export(state, data, out):
    """Write the model folder: float16 weights, and a scaling_factor that gives latents a unit deviation."""
    model = plain_model(state).float()
    latents = [model.encode(data.batch(4, 1, *FRAME)).latent_dist.mean for _ in range(12)]
    scaling_factor = round(1 / torch.cat(latents).std().item(), 5)
    model.register_to_config(scaling_factor=scaling_factor, force_upcast=False)
    model.half().save_pretrained(out)


def load_exported(out):
    return AutoencoderKLTemporalDecoder.from_pretrained(out, torch_dtype=torch.float16).float().eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of pictures and clips to train on")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint, to resume from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--minutes", type=float, default=80, help="time to train for")
    parser.add_argument("--export-only", action="store_true", help="export the checkpoint as it stands")
    parser.add_argument("--measure", type=Path, help="measure the exported model on this clip, and do nothing else")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    if args.measure:
        frames = read_clip(args.measure, FRAME)
        baseline = pca_error(load_file(args.out / "pca8x8.safetensors"), frames)
        error = model_error(load_exported(args.out), frames, window=28)
        print(f"{len(frames)} frames: model {psnr(error):.2f} dB, linear baseline {psnr(baseline):.2f} dB")
        return

    data = Data(args.data, args.seed)
    pca = fit_pca(data)
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(pca, args.out / "pca8x8.safetensors")
    report_validation("linear baseline", lambda frames, _: pca_error(pca, frames), data)

    trainer = Trainer(data, args.work, args.minutes)
    trainer.resume()
    if not args.export_only:
        trainer.run()
    export(trainer.average, data, args.out)
    exported = load_exported(args.out)
    report_validation("exported model", lambda frames, window: model_error(exported, frames, window), data)


if __name__ == "__main__":
    main()
