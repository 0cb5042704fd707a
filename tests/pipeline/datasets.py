"""Data sets: manifests of clips to latents in a cache, and out of it again.

    tests/pipeline/datasets.py [NAME...]
"""

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, MODEL, ROOT, main, narrow_model, need_model, run, sha256, write_graph  # noqa: E402
from roundtrip import ffmpeg, probe, timestamps  # noqa: E402


def precompute(path, manifest, cache, model=MODEL, read="", encode="", graph="", replicas=1):
    pathlib.Path(path).write_text(f"""
[graph]
cache = "{cache}"
{graph}
[stage.read]
kind = "decode"
manifest = "{manifest}"
{read}
[stage.vae_encode]
kind = "vae_encode"
from = "read"
model = "{model}"
replicas = {replicas}
{encode}
[stage.keep]
kind = "store"
from = "vae_encode"
""")
    return path


def decode(path, cache, output, model=MODEL, clips="*", decode="", write=""):
    pathlib.Path(path).write_text(f"""
[graph]
cache = "{cache}"
[stage.read]
kind = "latents"
clips = "{clips}"
[stage.vae_decode]
kind = "vae_decode"
from = "read"
model = "{model}"
{decode}
[stage.write]
kind = "mux"
from = "vae_decode"
output = "{output}"
{write}
""")
    return path


def latents(*arguments, check=True):
    finished = subprocess.run([BIN / "latents", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = finished.stdout.decode()
    assert finished.returncode == 0 or not check, text
    return text


def clips_of(cache):
    return {clip["clip"]: clip for clip in map(json.loads, latents("ls", cache, "--json").splitlines())}


def journal(cache):
    return [json.loads(line) for line in (pathlib.Path(f"{cache}.longtake") / "clips.jsonl").read_text().splitlines()]


def make_clip(path, seconds=1, size="64x48", rate=24, audio=False, source="testsrc2"):
    sound = ["-f", "lavfi", "-i", f"sine=duration={seconds}"] if audio else []
    ffmpeg("-f", "lavfi", "-i", f"{source}=size={size}:rate={rate}:duration={seconds}", *sound, "-c:v", "libx264", "-preset", "ultrafast", path)


def from_manifest_to_latents_to_videos(folder):
    """Three clips of different sizes and lengths, one with sound: into the cache, and decoded later as if in one run."""
    for name, seconds, size, audio in (("a", 1, "64x48", False), ("b", 0.5, "48x64", True), ("c", 0.3, "80x40", False)):
        make_clip(folder / f"{name}.mp4", seconds, size, audio=audio)
    manifest = folder / "clips.json"
    manifest.write_text(json.dumps([{"path": f"{name}.mp4", "text": f"clip {name}"} for name in "abc"]))
    cache = folder / "cache"
    run(precompute(folder / "p.toml", manifest, cache))
    there = clips_of(cache)
    assert {name: clip["frames"] for name, clip in there.items()} == {"a": 24, "b": 12, "c": 8}, there
    assert all(clip["state"] == "complete" for clip in there.values())
    latents("verify", cache)
    run(decode(folder / "d.toml", cache, folder / "out" / "{clip}.mp4"))
    for name, size in (("a", (64, 48)), ("b", (48, 64)), ("c", (80, 40))):
        output = folder / "out" / f"{name}.mp4"
        stream = probe(output, "stream=width,height")["streams"][0]
        assert (stream["width"], stream["height"]) == size, (name, stream)
        assert timestamps(output) == timestamps(folder / f"{name}.mp4"), name
        run(write_graph(folder / f"{name}.toml", folder / f"{name}.mp4", folder / f"{name}-direct.mp4"))
        assert sha256(output) == sha256(folder / f"{name}-direct.mp4"), f"{name}: other bytes than in one run"
    assert probe(folder / "out" / "b.mp4", "stream=codec_name", "a:0")["streams"], "the sound is gone"


if __name__ == "__main__":
    need_model()
    main([from_manifest_to_latents_to_videos])
