"""The worlds in which kills.py --kills lets stages die: every kind of stage, both transports, replicas, one clip and data sets.

A world makes a graph of its own below a name: what it is run with, what it makes, and where the run is kept.
"""

import dataclasses
import json
import pathlib
import re
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
import text_to_video as text  # noqa: E402
from datasets import decode, make_clip, precompute  # noqa: E402
from harness import ROOT, narrow_model, run, write_graph  # noqa: E402

EXAMPLES = ROOT / "examples"
SOURCE = "lavfi:testsrc2=size=64x48:rate=24:duration=3"
OPTIONS = dict(read="chunk = 4", write="segment = 12", decode="window = 8\nstride = 6")


@dataclasses.dataclass
class Job:
    """One run: its graph, its arguments, the files and caches that it makes, and the folder that keeps it."""

    graph: pathlib.Path
    arguments: list
    makes: list
    run_folder: pathlib.Path

    def finished(self):
        """Segments and clips that are through; of a run without either, pages of its cache."""
        segments, journal = self.run_folder / "segments.json", self.run_folder / "clips.jsonl"
        try:
            n = len(json.loads(segments.read_text())["segments"]) if segments.exists() else 0
            n += len(journal.read_text().splitlines()) if journal.exists() else 0
            return n or (self.makes[0] / "data.mdb").stat().st_size // 4096
        except (OSError, ValueError):
            return 0

    def kinds(self):
        """{name of a stage: its kind}"""
        return dict(re.findall(r'\[stage\.(\w+)\]\s*kind = "(\w+)"', self.graph.read_text()))


def beside(path):
    return pathlib.Path(f"{path}.longtake")


def model(folder):
    path = folder / "model"
    return path if path.exists() else narrow_model(path)


# ---- video to video ----------------------------------------------------------------------------------------


def one_clip(folder, name, cache=False, **graph):
    output, kept = folder / f"{name}.mp4", [folder / f"{name}.cache"] if cache else []
    toml = write_graph(folder / f"{name}.toml", SOURCE, output, cache=kept[0] if cache else None, model=model(folder), **OPTIONS, **graph)
    return Job(toml, [], [output] + kept, beside(output))


# ---- data sets -----------------------------------------------------------------------------------------------


def clips(folder):
    """Five clips of unlike sizes and lengths, one with sound, and a manifest of them; made once."""
    manifest = folder / "clips.json"
    if not manifest.exists():
        lengths = (("a", 1.2, "64x48"), ("b", 0.8, "48x64"), ("c", 0.4, "80x40"), ("d", 1, "64x48"), ("e", 0.6, "32x32"))
        for name, seconds, size in lengths:
            make_clip(folder / f"{name}.mp4", seconds, size, audio=name == "b")
        manifest.write_text(json.dumps([{"path": f"{name}.mp4", "text": f"clip {name}"} for name, _, _ in lengths]))
    return manifest


def into_a_cache(folder, name, transport="auto", replicas=1):
    cache = folder / f"{name}.cache"
    toml = precompute(folder / f"{name}.toml", clips(folder), cache, model(folder), read="chunk = 4", graph=f'transport = "{transport}"',
                      replicas=replicas)
    return Job(toml, [], [cache], beside(cache))


def out_of_a_cache(folder, name, transport="auto"):
    """Videos from latents that one undisturbed run has computed."""
    cache = folder / "filled.cache"
    if not cache.exists():
        run(precompute(folder / "fill.toml", clips(folder), cache, model(folder), read="chunk = 4"))
    output = folder / name / "{clip}.mp4"
    toml = decode(folder / f"{name}.toml", cache, output, model(folder), decode="window = 4\nstride = 3", write="segment = 8")
    toml.write_text(toml.read_text().replace("[graph]", f'[graph]\ntransport = "{transport}"\nrun = "{folder / name}"'))
    return Job(toml, [], [folder / name / f"{clip}.mp4" for clip in "abcde"], beside(folder / name))


# ---- text to video -------------------------------------------------------------------------------------------


def encoder():
    return dict(model=text.tiny("latent-dit") / "text_encoder", tokenizer=text.tiny("latent-dit") / "text_encoder")


def network(**options):
    return dict(model=text.tiny("latent-dit") / "denoising_model" / "model.safetensors", **options)


def whole(folder, name, transport="auto"):
    """All frames at once, as lite-sora does it."""
    output = folder / f"{name}.mp4"
    values = {"graph.transport": transport, **text.stage(
        prompt={**encoder(), "prompt": "red bird"}, denoise=network(size="64x48", frames=24, steps=12),
        vae_decode=dict(model=model(folder), window=8, stride=6), write=dict(output=output, segment=6))}
    return Job(EXAMPLES / "latent-dit.toml", text.sets(values), [output], beside(output))


def wavefront(folder, name, cache=True, transport="auto", replicas=1):
    """Windows along a diagonal, prompts along the timeline."""
    output, kept, graph = folder / f"{name}.mp4", [folder / f"{name}.cache"] if cache else [], text.LONG
    values = {**text.video_dit(folder, output, frames=72, steps=5), "stage.vae_decode.model": model(folder), "graph.transport": transport,
              "stage.vae_decode.replicas": replicas}
    values.pop("graph.cache")
    if cache:
        values["graph.cache"] = kept[0]
    else:
        graph = folder / "no-cache.toml"
        graph.write_text(text.LONG.read_text().replace('cache = "cache"', ""))
    return Job(graph, text.sets(values), [output] + kept, beside(output))


def video_to_video(folder, name, transport="auto", replicas=1):
    output, cache = folder / f"{name}.mp4", folder / f"{name}.cache"
    values = {"graph.cache": cache, "graph.transport": transport, **text.stage(
        read=dict(input=SOURCE, size="64x48", chunk=4), vae_encode=dict(model=model(folder), replicas=replicas),
        prompt={**encoder(), "prompt": "blue sky"}, denoise=network(window=8, stride=4, steps=6, strength=0.7),
        vae_decode=dict(model=model(folder), window=8, stride=6, replicas=replicas), write=dict(output=output, segment=12))}
    return Job(EXAMPLES / "video-to-video.toml", text.sets(values), [output, cache], beside(output))


def captions(folder, name, transport="auto"):
    """The embeddings of a manifest's captions."""
    manifest, cache = folder / "captions.json", folder / f"{name}.cache"
    if not manifest.exists():
        manifest.write_text(json.dumps([{"path": f"{i}.mp4", "text": f"red bird {i % 110}"} for i in range(120)]))
    values = {"graph.cache": cache, "graph.transport": transport, **text.stage(text={**encoder(), "manifest": manifest, "dtype": "f32"})}
    return Job(EXAMPLES / "precompute-text.toml", text.sets(values), [cache], beside(cache))


# Name: what makes the job, how, and how many die at once.
WORLDS = {
    "one clip": (one_clip, {}, 1),
    "a cache": (one_clip, dict(cache=True), 1),
    "two at once": (one_clip, {}, 2),
    "replicas, a cache, two at once": (one_clip, dict(replicas=2, cache=True), 2),
    "tcp": (one_clip, dict(transport="tcp"), 1),
    "tcp, replicas, a cache, two at once": (one_clip, dict(transport="tcp", replicas=2, cache=True), 2),
    "clips into a cache": (into_a_cache, {}, 1),
    "clips into a cache, replicas, two at once": (into_a_cache, dict(replicas=2), 2),
    "clips into a cache, tcp": (into_a_cache, dict(transport="tcp"), 1),
    "clips out of a cache": (out_of_a_cache, {}, 1),
    "clips out of a cache, tcp, two at once": (out_of_a_cache, dict(transport="tcp"), 2),
    "text, whole": (whole, {}, 1),
    "text, whole, tcp, two at once": (whole, dict(transport="tcp"), 2),
    "text, windows, a cache": (wavefront, {}, 1),
    "text, windows, in the run folder": (wavefront, dict(cache=False), 1),
    "text, windows, tcp, replicas, two at once": (wavefront, dict(transport="tcp", replicas=2), 2),
    "video to video": (video_to_video, {}, 1),
    "video to video, tcp, replicas, two at once": (video_to_video, dict(transport="tcp", replicas=2), 2),
    "captions": (captions, {}, 1),
    "captions, tcp, two at once": (captions, dict(transport="tcp"), 2),
}


# ---- what a cache holds ----------------------------------------------------------------------------------------

PAGE_HEADER, LEAF, BRANCH, BIG = 16, 0x02, 0x01, 0x01


def pages(data, size, number):
    """Entries (key, value) below a page of an LMDB file, in order of the keys."""
    page = number * size
    flags, lower, _ = struct.unpack_from("<HHH", data, page + 10)
    for place in struct.unpack_from(f"<{(lower - PAGE_HEADER) // 2}H", data, page + PAGE_HEADER):
        node = page + place
        low, high, node_flags, key_bytes = struct.unpack_from("<HHHH", data, node)
        if flags & BRANCH:
            yield from pages(data, size, low | high << 16 | node_flags << 32)
            continue
        start, n = node + 8 + key_bytes, low | high << 16
        if node_flags & BIG:
            start = struct.unpack_from("<Q", data, start)[0] * size + PAGE_HEADER
        yield data[node + 8 : node + 8 + key_bytes], data[start : start + n]


def cached(folder):
    """{key: value} of a cache's latents, texts, records and side streams, read with nothing of Longtake and no lmdb."""
    data = (folder / "data.mdb").read_bytes()
    size = struct.unpack_from("<I", data, PAGE_HEADER + 24)[0]
    metas = [struct.unpack_from("<Q40x", data, page + PAGE_HEADER + 24 + 48 + 40) + struct.unpack_from("<QQ", data, page + PAGE_HEADER + 120)
             for page in (0, size)]
    root = max(metas, key=lambda meta: meta[2])[0]
    return {key.decode(): value for key, value in pages(data, size, root) if key.split(b"/")[0] in (b"latent", b"text", b"clip", b"side")}


def contents(path):
    """{name: bytes} of what a run has made."""
    if path.suffix == ".cache":
        return cached(path)
    return {"": path.read_bytes() if path.exists() else b""}
