"""The SVD VAE in plain PyTorch, by diffusers' names, for machines without diffusers: the same layers on the same weights (--check compares the two).

    torch_plain_vae.py --check FOLDER          a VAE's folder: largest relative difference to diffusers' AutoencoderKLTemporalDecoder, f32
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from torch import nn


class Res(nn.Module):
    def __init__(self, inputs, outputs, temporal=False, eps=1e-6):
        super().__init__()
        conv, kernel, pad = (nn.Conv3d, (3, 1, 1), (1, 0, 0)) if temporal else (nn.Conv2d, 3, 1)
        self.norm1, self.conv1 = nn.GroupNorm(32, inputs, eps=eps), conv(inputs, outputs, kernel, padding=pad)
        self.norm2, self.conv2 = nn.GroupNorm(32, outputs, eps=eps), conv(outputs, outputs, kernel, padding=pad)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (self.conv_shortcut(x) if self.conv_shortcut else x) + y


class Mixed(nn.Module):
    """A residual block for each frame, and one over the frames, mixed by a learned number."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.spatial_res_block = Res(inputs, outputs)
        self.temporal_res_block = Res(outputs, outputs, True, 1e-5)
        self.time_mixer = nn.Module()
        self.time_mixer.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        x = self.spatial_res_block(x)
        clip = x[None].transpose(1, 2)
        mixed = self.temporal_res_block(clip)
        alpha = 1 - torch.sigmoid(self.time_mixer.mix_factor)
        return (alpha * clip + (1 - alpha) * mixed).transpose(1, 2)[0]


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.group_norm = nn.GroupNorm(32, width, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x):
        y = self.group_norm(x).flatten(2).transpose(1, 2)
        y = F.scaled_dot_product_attention(*(part(y)[:, None] for part in (self.to_q, self.to_k, self.to_v)))[:, 0]
        return x + self.to_out[0](y).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Blocks of one width, and what changes the size after them."""

    def __init__(self, block, inputs, outputs, count, sampler=None, stride=1):
        super().__init__()
        self.resnets = nn.ModuleList([block(inputs if i == 0 else outputs, outputs) for i in range(count)])
        self.sampler = sampler
        if sampler:
            holder = nn.Module()
            holder.conv = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0)
            setattr(self, sampler, nn.ModuleList([holder]))

    def forward(self, x):
        for block in self.resnets:
            x = block(x)
        if self.sampler == "downsamplers":
            x = self.downsamplers[0].conv(F.pad(x, (0, 1, 0, 1)))
        if self.sampler == "upsamplers":
            x = self.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Middle(nn.Module):
    def __init__(self, block, width, count):
        super().__init__()
        self.resnets = nn.ModuleList([block(width, width) for _ in range(count)])
        self.attentions = nn.ModuleList([Attention(width)])

    def forward(self, x):
        x = self.resnets[0](x)
        for attention, block in zip(self.attentions, self.resnets[1:]):  # of a single block none, as in diffusers
            x = block(attention(x))
        return x


class Encoder(nn.Module):
    def __init__(self, channels, layers):
        super().__init__()
        before = (channels[0], *channels)
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList([Level(Res, before[i], width, layers, "downsamplers" if i + 1 < len(channels) else None, 2) for i, width in enumerate(channels)])
        self.mid_block = Middle(Res, channels[-1], 2)
        self.conv_norm_out, self.conv_out = nn.GroupNorm(32, channels[-1], eps=1e-6), nn.Conv2d(channels[-1], 8, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, channels, layers):
        super().__init__()
        widths = channels[::-1]
        before = (widths[0], *widths)
        self.conv_in, self.mid_block = nn.Conv2d(4, widths[0], 3, padding=1), Middle(Mixed, widths[0], layers)
        self.up_blocks = nn.ModuleList([Level(Mixed, before[i], width, layers + 1, "upsamplers" if i + 1 < len(widths) else None) for i, width in enumerate(widths)])
        self.conv_norm_out, self.conv_out = nn.GroupNorm(32, widths[-1], eps=1e-6), nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.time_conv_out = nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return self.time_conv_out(x[None].transpose(1, 2)).transpose(1, 2)[0]


class PlainVAE(nn.Module):
    def __init__(self, channels, layers):
        super().__init__()
        self.encoder, self.decoder, self.quant_conv = Encoder(channels, layers), Decoder(channels, layers), nn.Conv2d(8, 8, 1)

    @staticmethod
    def load(folder):
        from safetensors.torch import load_file

        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        with torch.device("meta"):
            vae = PlainVAE(tuple(config["block_out_channels"]), config["layers_per_block"])
        vae.load_state_dict(load_file(f"{folder}/diffusion_pytorch_model.safetensors"), assign=True)
        return vae


def check(folder):
    from diffusers import AutoencoderKLTemporalDecoder

    plain, theirs = PlainVAE.load(folder).float().eval(), AutoencoderKLTemporalDecoder.from_pretrained(folder).float().eval()
    x, z = torch.randn(2, 3, 48, 40), torch.randn(3, 4, 6, 5)
    with torch.inference_mode():
        pairs = ((plain.quant_conv(plain.encoder(x)), theirs.quant_conv(theirs.encoder(x))), (plain.decoder(z), theirs.decode(z, num_frames=3).sample))
        far = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
    print(f"{far:.1e}")
    return far


if __name__ == "__main__":
    sys.exit(0 if check(sys.argv[2]) < 1e-5 else 1)
