"""Frames that stay on a GPU from decode to vae_encode, on one that is played: CUDA's plug-in and FFmpeg's hardware on the device of
tests/cuda_on_host, in the real processes.

    tests/pipeline/on_gpu.py [NAME...]
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from datasets import clips_of, latents, precompute  # noqa: E402
from text_to_video import SEED  # noqa: E402
from harness import BIN, SANITIZED, Run, main, narrow_model, need_model, run, sha256, skip, write_graph  # noqa: E402

LIBRARIES = BIN.parent / "lib" / "cuda_on_host"
DECODER = LIBRARIES / "libdecoder_on_host.so"
FRAMES, SIDE = 6, 16
READ = 'hwaccel = "cuda"\nconvert = "device"\nchunk = 2'
ENCODE = 'device = "cuda:0"'


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def clip(path, frames=FRAMES, size=f"{SIDE}x{SIDE - 2}"):
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=24", "-frames:v", frames, "-c:v", "libx264", "-g", 6, "-pix_fmt", "yuv420p", path)
    return path


def turned(path):
    ffmpeg("-i", clip(path.with_suffix(".upright.mp4")), "-c", "copy", "-metadata:s:v:0", "rotate=90", path)
    return path


def latents_of(folder, name, source, read=READ, encode=ENCODE, graph="", **environment):
    """The cache of a run that encodes a clip, the graph, and what the run said."""
    path = precompute(folder / f"{name}.toml", source, folder / f"{name}.cache", model(folder), read, encode, graph)
    path.write_text(path.read_text().replace("manifest =", "input ="))
    return folder / f"{name}.cache", path, run_with(path, **environment)


def values_of(cache):
    """What `latents export` makes of each clip."""
    found = {}
    for name in clips_of(cache):
        out = cache.with_suffix(f".{name}.safetensors")
        latents("export", cache, name, out)
        found[name] = sha256(out)
    return found


def model(folder, known={}):
    if folder not in known:
        known[folder] = narrow_model(folder / "narrow")
    return known[folder]


def run_with(graph, *arguments, expect=0, **environment):
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        return run(graph, *arguments, expect=expect)
    finally:
        os.environ.clear()
        os.environ.update(before)


def plan(graph, *arguments):
    done = subprocess.run([BIN / "orchestrator", "plan", graph, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode()


def frames_edge(graph, *arguments):
    return next(line for line in plan(graph, *arguments)[1].splitlines() if line.startswith("read.frames>"))


def copies(path):
    """Bytes that each kind of stage had brought to the device and from it."""
    found = {}
    for line in path.read_text().splitlines():
        name, up, down = line.split()
        had = found.get(name, (0, 0))
        found[name] = (had[0] + int(up), had[1] + int(down))
    return found


def frames_stay_there(folder):
    """The same latents as by way of the host, or of a frame at a time, from frames that were neither brought up nor down."""
    source, cache, counts = clip(folder / "in.mp4"), {}, {}
    for name, graph, encode in (("there", "", ENCODE), ("host", 'transport = "tcp"', ENCODE), ("alone", "", f"{ENCODE}\nbatch = 1")):
        path = folder / f"{name}.counts"
        cache[name], toml, _ = latents_of(folder, name, source, encode=encode, graph=graph, LT_DECODER_COUNTS=str(path))
        assert ("device memory" in frames_edge(toml)) == (name != "host"), frames_edge(toml)
        assert (", 2 frames at once" in plan(toml)[1]) == (name != "alone"), plan(toml)[1]
        counts[name] = copies(path)
    assert values_of(cache["there"]) == values_of(cache["host"]) == values_of(cache["alone"]), "other latents"
    frames = FRAMES * SIDE * SIDE * 3
    assert "stage-decode" not in counts["there"] and counts["host"]["stage-decode"][1] == frames, counts
    assert counts["host"]["stage-vae_encode"][0] - counts["there"]["stage-vae_encode"][0] == frames, counts
    key = {name: clips_of(cache[name])["in"]["digest"] for name in cache}
    assert key["there"] == key["host"], "another place in the cache"
    other, _, _ = latents_of(folder, "ffmpeg", source, read=READ.replace("device", "ffmpeg"))
    assert clips_of(other)["in"]["digest"] != key["there"], "the same place in the cache as FFmpeg's pixels"


def a_plan_says_where_frames_lie(folder):
    source = clip(folder / "in.mp4")
    path = precompute(folder / "g.toml", source, folder / "cache", model(folder), READ, ENCODE)
    path.write_text(path.read_text().replace("manifest =", "input ="))
    text = plan(path)[1]
    assert "device memory" in frames_edge(path) and "read: the decoder's surfaces are counted as " in text, text
    assert "device: cuda:0, CUDA on host: " in text and "for 2 processes" in text, text
    for setting in ("stage.vae_encode.device=cpu", "stage.vae_encode.overlap=0 --set stage.vae_encode.tile=8", "graph.transport=tcp", "stage.read.convert=ffmpeg"):
        assert "device memory" not in frames_edge(path, "--set", *setting.split()), setting
    text = plan(path, "--set", "stage.read.convert=ffmpeg")[1]
    assert "read: of its memory the decoder takes about " in text, text
    for setting, words in (("stage.read.hwaccel=none", "needs the GPU that decodes"), ("stage.read.size=8x8", "size does not go with"),
                           ("stage.read.hwaccel=cuda:1", "there is no such device"), ("stage.read.live=true", "live does not go with"),
                           (f"stage.read.input={turned(folder / 'turned.mp4')}", "say convert = ffmpeg")):
        code, text = plan(path, "--set", setting)
        assert code == (1 if "hwaccel=cuda:1" in setting or "input=" in setting else 2) and words in text, (setting, text)


def from_file_to_film(folder):
    """Two edges on the device, one behind the other."""
    source, films = clip(folder / "in.mp4"), set()
    for name, transport in (("there", "auto"), ("host", "tcp")):
        toml = write_graph(folder / f"{name}.toml", source, folder / f"{name}.mp4", model=model(folder), transport=transport, read=READ, encode=ENCODE,
                           decode=f"{ENCODE}\nwindow = 4\nstride = 3")
        edges = [line for line in plan(toml)[1].splitlines() if "device memory" in line]
        assert len(edges) == (2 if name == "there" else 0), edges
        run(toml)
        films.add(sha256(folder / f"{name}.mp4"))
    assert len(films) == 1, "another film than by way of the host"


def a_clip_that_it_cannot_do_is_a_clip(folder):
    """Of a manifest: one that is to be turned is given up, the others are made."""
    clip(folder / "a.mp4")
    turned(folder / "b.mp4")
    clip(folder / "c.mp4", FRAMES - 1)
    (folder / "clips.json").write_text(json.dumps([{"path": f"{name}.mp4", "text": name} for name in "abc"]))
    toml = precompute(folder / "p.toml", folder / "clips.json", folder / "cache", model(folder), READ, ENCODE)
    assert "device memory" in frames_edge(toml), frames_edge(toml)
    text = run(toml, expect=3)
    assert len(clips_of(folder / "cache")) == 2 and "say convert = ffmpeg" in text + failed(toml), text


def clips_of_other_sizes(folder):
    """Of a manifest: each clip has its own, the later ones are larger."""
    for name, size in (("a", "16x6"), ("b", "30x8"), ("c", "16x30")):
        clip(folder / f"{name}.mp4", FRAMES - 1, size)
    (folder / "clips.json").write_text(json.dumps([{"path": f"{name}.mp4"} for name in "abc"]))
    found = []
    for name, graph in (("there", ""), ("host", 'transport = "tcp"')):
        toml = precompute(folder / f"{name}.toml", folder / "clips.json", folder / f"{name}.cache", model(folder), READ, ENCODE, graph)
        assert ("device memory" in frames_edge(toml)) == (name == "there"), frames_edge(toml)
        run(toml)
        found.append(values_of(folder / f"{name}.cache"))
    assert found[0] == found[1] and len(found[0]) == 3, found


def failed(toml):
    return "".join(path.read_text() for path in toml.parent.glob("**/failed.json"))


def a_lost_device_costs_a_chunk(folder):
    source = clip(folder / "in.mp4")
    calm, _, _ = latents_of(folder, "calm", source)
    lost, _, text = latents_of(folder, "lost", source, LT_DECODER_LOSE=f"4:{folder}/marker")
    assert (folder / "marker").exists(), "no device was lost"
    assert values_of(calm) == values_of(lost), "other latents than an undisturbed run's"
    logs = "".join(path.read_text(errors="replace") for path in folder.glob("**/logs/*"))
    assert "was lost" in logs + text, text


def either_end_is_killed(folder):
    """kill -9 at seeded moments: the same film, of frames that are decoded again."""
    source, rng, kills, attempt = clip(folder / "in.mp4", 40), random.Random(f"{SEED}/frames"), [], 0

    def graph(name):
        return write_graph(folder / f"{name}.toml", source, folder / f"{name}.mp4", model=model(folder), read=READ, encode=ENCODE,
                           decode="window = 4\nstride = 3")

    run(graph("calm"))
    while len(kills) < 4:
        attempt += 1
        assert attempt < 8, f"only {kills}"
        going = Run(graph(f"run{attempt}"))
        while going.running() and len(kills) < 4:
            time.sleep(rng.uniform(0.2, 0.8))
            wanted = ("stage-decode", "stage-vae_encode")[len(kills) % 2]
            kills += filter(None, [going.kill_stage(rng, only=wanted)])
        assert going.wait() == 0, f"seed {SEED}, after {kills}:\n{going.text()[-2000:]}"
        assert sha256(folder / f"run{attempt}.mp4") == sha256(folder / "calm.mp4"), f"seed {SEED}: another film after {kills}"
    assert len(set(kills)) == 2, kills


if __name__ == "__main__":
    need_model()
    if SANITIZED or not DECODER.exists():
        skip("a library that is loaded before a sanitizer's is not possible: nothing of this test ran")
    os.environ.update(LT_BACKEND_PATH=str(LIBRARIES), LD_PRELOAD=str(DECODER))
    main([frames_stay_there, a_plan_says_where_frames_lie, from_file_to_film, a_clip_that_it_cannot_do_is_a_clip,
          clips_of_other_sizes, a_lost_device_costs_a_chunk,
          either_end_is_killed])
