#!/usr/bin/env python3
"""networks - checkpoints of the networks that are timed, with seeded values: none of the published weights is needed.

    tools/bench/networks.py NAME PATH [--small] [--blocks N] [--hollow]

NAME: svd_vae, t5_xxl, clip_bigg (PATH becomes a folder), video_dit_v2, pixart_video_dit (PATH becomes a file). bf16; names and shapes are those of diffusers,
transformers and lite-sora. --small: the same families, narrow and shallow; --blocks: so many blocks or layers (not of the VAE); --hollow: zeros that take no
room on the disk, of which only FLOPs can be counted.

Matrices are uniform in +-1 / sqrt(K), K values to an output, norms' weights in 1 +- 0.1, embeddings and tables in +-0.5, everything else in +-0.02: activations
stay within what bf16 holds, through any number of layers. A tensor's values are a piece of 65,521 numbers (a prime: rows differ), over and over.
"""

import argparse
import array
import json
import os
import pathlib
import random
import struct

FULL = {
    "svd_vae": dict(channels=(128, 256, 512, 512), layers=2),
    "video_dit_v2": dict(width=1024, time=1024, text=768, cross=768, blocks=32),
    "pixart_video_dit": dict(width=1152, text=4096, blocks=28),
    "t5_xxl": dict(width=4096, ff=10240, heads=64, blocks=24, tokens=32128),
    "clip_bigg": dict(width=1280, ff=5120, heads=20, blocks=32, tokens=49408),
}
SMALL = {
    "svd_vae": dict(channels=(32, 32, 64, 64), layers=1),
    "video_dit_v2": dict(width=128, time=64, text=32, cross=48, blocks=2),
    "pixart_video_dit": dict(width=144, text=64, blocks=2),
    "t5_xxl": dict(width=96, ff=160, heads=2, blocks=2, tokens=64),
    "clip_bigg": dict(width=128, ff=192, heads=2, blocks=2, tokens=64),
}
FOLDERS = {"svd_vae": "diffusion_pytorch_model.safetensors", "t5_xxl": "model.safetensors", "clip_bigg": "model.safetensors"}


def sizes_of(name, small=False, **changes):
    """What the network is made of; of the changes those that it knows."""
    sizes = dict((SMALL if small else FULL)[name])
    sizes.update((key, value) for key, value in changes.items() if key in sizes and value)
    return sizes


# ---- names and shapes ------------------------------------------------------------------------------------


class Shapes(dict):
    """Tensors' shapes by name."""

    def affine(self, name, *shape, bias=True):
        self[f"{name}.weight"] = shape
        if bias:
            self[f"{name}.bias"] = shape[:1]

    def conv(self, name, inputs, outputs, *kernel):
        self.affine(name, outputs, inputs, *kernel)

    def linear(self, name, inputs, outputs, bias=True):
        self.affine(name, outputs, inputs, bias=bias)

    def norm(self, name, width, bias=True):
        self.affine(name, width, bias=bias)

    def resnet(self, name, inputs, outputs, kernel=(3, 3)):
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs, *kernel)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs, *kernel)
        if inputs != outputs:
            self.conv(f"{name}.conv_shortcut", inputs, outputs, 1, 1)

    def mixed(self, name, inputs, outputs):
        self.resnet(f"{name}.spatial_res_block", inputs, outputs)
        self.resnet(f"{name}.temporal_res_block", outputs, outputs, (3, 1, 1))
        self[f"{name}.time_mixer.mix_factor"] = (1,)

    def attention(self, name, width, keys, out="to_out"):
        for part, inputs in (("to_q", width), ("to_k", keys), ("to_v", keys), (out, width)):
            self.linear(f"{name}.{part}", inputs, width)

    def middle(self, name, width, block, blocks):
        for i in range(blocks):
            block(f"{name}.resnets.{i}", width, width)
        self.norm(f"{name}.attentions.0.group_norm", width)
        self.attention(f"{name}.attentions.0", width, width, "to_out.0")


def svd_vae(channels, layers):
    s, last = Shapes(), channels[-1]
    s.conv("encoder.conv_in", 3, channels[0], 3, 3)
    before = channels[0]
    for i, width in enumerate(channels):
        for j in range(layers):
            s.resnet(f"encoder.down_blocks.{i}.resnets.{j}", before, width)
            before = width
        if i + 1 < len(channels):
            s.conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", width, width, 3, 3)
    s.middle("encoder.mid_block", last, s.resnet, 2)
    s.norm("encoder.conv_norm_out", last)
    s.conv("encoder.conv_out", last, 8, 3, 3)
    s.conv("quant_conv", 8, 8, 1, 1)
    s.conv("decoder.conv_in", 4, last, 3, 3)
    s.middle("decoder.mid_block", last, s.mixed, layers)
    before = last
    for i, width in enumerate(reversed(channels)):
        for j in range(layers + 1):
            s.mixed(f"decoder.up_blocks.{i}.resnets.{j}", before, width)
            before = width
        if i + 1 < len(channels):
            s.conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", width, width, 3, 3)
    s.norm("decoder.conv_norm_out", before)
    s.conv("decoder.conv_out", before, 3, 3, 3)
    s.conv("decoder.time_conv_out", 3, 3, 3, 1, 1)
    return s


def video_dit_v2(width, time, text, cross, blocks):
    s = Shapes()
    s.linear("time_emb.time_embedding.0", time, time)
    s.linear("time_emb.time_embedding.2", time, time)
    s.linear("patchify.proj_pos", 3 * width, width)
    s.conv("patchify.proj_latent", 4, width, 4, 4, 4)
    for i in range(blocks):
        for part in "ABC":
            block = f"blocks.{i}.block{part}"
            s.linear(f"{block}.adaln.fusion.projs.0", time, width)
            s.linear(f"{block}.adaln.fusion.projs.1", text, width)
            s.linear(f"{block}.adaln.linear", width, 3 * width)
        s.attention(f"blocks.{i}.blockA.attn", width, width)
        s.attention(f"blocks.{i}.blockB.attn", width, cross)
        s.linear(f"blocks.{i}.blockC.ff.proj_in", width, 4 * width)
        s.linear(f"blocks.{i}.blockC.ff.proj_out", 4 * width, width)
    s.linear("unpatchify.proj_out", width, 256)
    s.conv("unpatchify.conv_out", 4, 4, 3, 3, 3)
    return s


def pixart_video_dit(width, text, blocks):
    s = Shapes()
    s.conv("patchify.proj_latent", 4, width, 4, 4, 4)
    s.linear("global_adaln.time_emb.time_embedding.0", 256, width)
    s.linear("global_adaln.time_emb.time_embedding.2", width, width)
    s.linear("global_adaln.linear", width, 6 * width)
    s.linear("caption_projection.0", text, width)
    s.linear("caption_projection.2", width, width)
    for i in range(blocks):
        s[f"blocks.{i}.scale_shift_table"] = (1, 6, width)
        s.attention(f"blocks.{i}.attn1", width, width)
        s.attention(f"blocks.{i}.attn2", width, width)
        s.linear(f"blocks.{i}.ff.proj_in", width, 4 * width)
        s.linear(f"blocks.{i}.ff.proj_out", 4 * width, width)
    s["unpatchify.scale_shift_table"] = (1, 2, width)
    s.linear("unpatchify.proj_out", width, 512)
    return s


def t5_xxl(width, ff, heads, blocks, tokens):
    s = Shapes()
    s["shared.weight"] = (tokens, width)
    for i in range(blocks):
        first, second = (f"encoder.block.{i}.layer.{j}" for j in (0, 1))
        for part in "qkv":
            s.linear(f"{first}.SelfAttention.{part}", width, 64 * heads, False)
        s.linear(f"{first}.SelfAttention.o", 64 * heads, width, False)
        if i == 0:
            s[f"{first}.SelfAttention.relative_attention_bias.weight"] = (32, heads)
        s.norm(f"{first}.layer_norm", width, False)
        s.linear(f"{second}.DenseReluDense.wi_0", width, ff, False)
        s.linear(f"{second}.DenseReluDense.wi_1", width, ff, False)
        s.linear(f"{second}.DenseReluDense.wo", ff, width, False)
        s.norm(f"{second}.layer_norm", width, False)
    s.norm("encoder.final_layer_norm", width, False)
    return s


def clip_bigg(width, ff, heads, blocks, tokens):
    s = Shapes()
    s["text_model.embeddings.token_embedding.weight"] = (tokens, width)
    s["text_model.embeddings.position_embedding.weight"] = (77, width)
    for i in range(blocks):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("k", "v", "q", "out"):
            s.linear(f"{layer}.self_attn.{part}_proj", width, width)
        s.norm(f"{layer}.layer_norm1", width)
        s.linear(f"{layer}.mlp.fc1", width, ff)
        s.linear(f"{layer}.mlp.fc2", ff, width)
        s.norm(f"{layer}.layer_norm2", width)
    s.norm("text_model.final_layer_norm", width)
    s.linear("text_projection", width, width, False)
    return s


NETWORKS = {"svd_vae": svd_vae, "video_dit_v2": video_dit_v2, "pixart_video_dit": pixart_video_dit, "t5_xxl": t5_xxl, "clip_bigg": clip_bigg}


def config_of(name, sizes):
    """The config.json of those that are folders."""
    if name == "svd_vae":
        return dict(_class_name="AutoencoderKLTemporalDecoder", block_out_channels=sizes["channels"], layers_per_block=sizes["layers"], in_channels=3, out_channels=3,
                    latent_channels=4, scaling_factor=0.18215, force_upcast=True, down_block_types=["DownEncoderBlock2D"] * len(sizes["channels"]))
    if name == "t5_xxl":
        return dict(architectures=["T5EncoderModel"], model_type="t5", d_model=sizes["width"], d_ff=sizes["ff"], d_kv=64, num_heads=sizes["heads"], num_layers=sizes["blocks"],
                    vocab_size=sizes["tokens"], feed_forward_proj="gated-gelu", dense_act_fn="gelu_new", is_gated_act=True, layer_norm_epsilon=1e-6, tie_word_embeddings=False,
                    relative_attention_num_buckets=32, relative_attention_max_distance=128, dropout_rate=0.0)
    return dict(architectures=["CLIPTextModelWithProjection"], model_type="clip_text_model", hidden_size=sizes["width"], intermediate_size=sizes["ff"], hidden_act="gelu",
                num_attention_heads=sizes["heads"], num_hidden_layers=sizes["blocks"], max_position_embeddings=77, projection_dim=sizes["width"], vocab_size=sizes["tokens"],
                layer_norm_eps=1e-5, eos_token_id=2)


# ---- files -----------------------------------------------------------------------------------------------

PIECE = 65521


class Values:
    """Pieces of bf16 numbers in middle +- width, made once for each pair."""

    def __init__(self):
        numbers = random.Random(1)
        self.uniform = [numbers.uniform(-1, 1) for _ in range(PIECE)]
        self.pieces = {}

    def piece(self, middle, width):
        if (middle, width) not in self.pieces:
            bits = array.array("I", array.array("f", [middle + width * u for u in self.uniform]).tobytes())
            one = array.array("H", [(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits]).tobytes()
            self.pieces[middle, width] = memoryview(one * 32)
        return self.pieces[middle, width]

    def of(self, name, shape):
        if len(shape) == 1:
            return self.piece(1.0, 0.1) if "norm" in name and name.endswith("weight") else self.piece(0.0, 0.02)
        if "embed" in name or "shared" in name or "table" in name or "relative" in name:
            return self.piece(0.0, 0.5)
        return self.piece(0.0, (count(shape) // shape[0]) ** -0.5)


def count(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def write(path, shapes, hollow):
    header, offset, values = {}, 0, Values()
    for name, shape in shapes.items():
        end = offset + 2 * count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if hollow:
            file.truncate(8 + len(text) + offset)
            return
        for name, shape in shapes.items():
            left, piece = 2 * count(shape), values.of(name, shape)
            while left:
                left -= file.write(piece[: min(left, len(piece))])


def make(name, path, small=False, hollow=False, **changes):
    """Write the checkpoint, and return its path."""
    path, sizes = pathlib.Path(path), sizes_of(name, small, **changes)
    if name in FOLDERS:
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(config_of(name, sizes), indent=1))
    part = path / FOLDERS[name] if name in FOLDERS else path
    write(f"{part}.part", NETWORKS[name](**sizes), hollow)
    os.replace(f"{part}.part", part)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("path")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--hollow", action="store_true")
    a = parser.parse_args()
    make(a.name, a.path, a.small, a.hollow, blocks=a.blocks)
