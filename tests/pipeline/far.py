"""Whole runs on a device whose memory the host cannot touch (tests/kernels/far.c): the bytes of a run on the cpu, and what a device can do to
a run: be full, be lost, be too small. And what stays on a device from stage to stage.

    tests/pipeline/far.py [NAME...]
"""

import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import text_to_video  # noqa: E402
from harness import BIN, ROOT, Run, main, narrow_model, need_model, run, sha256, wait_until, write_graph  # noqa: E402
from text_to_video import SEED, SIZE, sets, stage, tiny, vae  # noqa: E402

SOURCE = "lavfi:testsrc2=size=96x64:rate=24:duration=1"
os.environ.setdefault("LT_BACKEND_PATH", str(BIN.parent / "lib" / "tests"))
CPU = {"encode": 'tile = "64"', "decode": 'window = 8\nstride = 6\ntile = "64x48"'}


def roundtrip(folder, name, device, expect=0, **more):
    """The output's hash and what the run said; tiles, windows and logvar take every path between host and device."""
    graph = write_graph(folder / f"{name}.toml", SOURCE, folder / f"{name}.mp4", cache=folder / f"{name}.cache", model=vae(),
                        **{part: f'{lines}\ndevice = "{device}"\n{more.get(part, "")}' for part, lines in CPU.items()})
    text = run(graph, expect=expect)
    return (sha256(folder / f"{name}.mp4") if expect == 0 else None), text


def undisturbed(folder, known={}):
    """The hash of the cpu's film, made once."""
    if not known:
        known["hash"], _ = roundtrip(folder, "near", "cpu")
    return known["hash"]


def faulty(folder, name, variables, **more):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        return roundtrip(folder, name, "far", **more)
    finally:
        os.environ.clear()
        os.environ.update(before)


def logs(folder, name):
    return "".join(path.read_text(errors="replace") for path in sorted((folder / f"{name}.mp4.longtake" / "logs").iterdir()))


def a_round_trip_has_the_bytes_of_the_cpu(folder):
    counts = folder / "counts"
    near = undisturbed(folder)
    far, _ = faulty(folder, "far", {"LT_FAR_COUNTS": str(counts)})
    assert near == far, "another film than on the cpu"
    lines = counts.read_text().splitlines()
    assert len(lines) >= 2 and all(int(line.split()[1]) > 0 and int(line.split()[4]) > 0 for line in lines), lines
    half = {part: 'dtype = "bf16"' for part in CPU}
    near, _ = roundtrip(folder, "near16", "cpu", **half)
    far, _ = roundtrip(folder, "far16", "far", **half)
    assert near == far, "another film than on the cpu, in bf16"


def video_to_video_has_the_bytes_of_the_cpu(folder):
    family, hashes = tiny("latent-dit"), {}
    for device in ("cpu", "far"):
        output = folder / f"{device}.mp4"
        there = dict(device=device)
        run(ROOT / "examples" / "video-to-video.toml", *sets({"graph.cache": folder / f"cache-{device}", "stage.write.output": output, **stage(
            read=dict(input="lavfi:testsrc2=size=64x48:rate=24:duration=1", size=SIZE), vae_encode=dict(model=vae(), **there),
            prompt=dict(model=family / "text_encoder", tokenizer=family / "text_encoder", **there), vae_decode=dict(model=vae(), **there),
            denoise=dict(model=family / "denoising_model" / "model.safetensors", window=8, steps=3, **there))}))
        hashes[device] = sha256(output)
    assert len(set(hashes.values())) == 1, hashes


def other_text_encoders_and_networks(folder):
    """T5 with its bias and mask, two encoders side by side, the UNet."""
    pixart, sdxl = tiny("pixart"), tiny("sdxl")
    for name, frames, prompt, network in (
            ("pixart-video", 3, dict(model=pixart), pixart / "denoising_model" / "model.safetensors"),
            ("sdxl-3d", 4, dict(model=sdxl, tokenizer=sdxl / "tokenizer", tokenizer_2=sdxl / "tokenizer_2"), sdxl / "unet")):
        hashes = {}
        for device in ("cpu", "far"):
            output = folder / f"{name}-{device}.mp4"
            run(ROOT / "examples" / f"{name}.toml", *sets({"stage.write.output": output, **stage(
                prompt=dict(device=device, **prompt), vae_decode=dict(model=vae(), device=device),
                denoise=dict(model=network, size=SIZE, frames=frames, steps=2, device=device))}))
            hashes[device] = sha256(output)
        assert len(set(hashes.values())) == 1, (name, hashes)


def a_lost_device_costs_a_chunk(folder):
    """The stage ends with the transient exit code, is started again, and its chunk is made again."""
    wanted = undisturbed(folder)
    for at in (150, 600):
        name = f"lost{at}"
        got, text = faulty(folder, name, {"LT_FAR_LOSE": f"{at}:{folder}/{name}"})
        assert (folder / name).exists(), "no device was lost"
        assert got == wanted, "another film than an undisturbed run's"
        assert "device 'far' was lost" in logs(folder, name) + text, text


def a_full_device_is_waited_for(folder):
    wanted = undisturbed(folder)
    got, text = faulty(folder, "full", {"LT_FAR_FULL": f"{folder}/full"})
    assert (folder / "full").exists() and got == wanted, "another film than an undisturbed run's"
    assert "others use it" in logs(folder, "full") + text, text


WHOLE = {"encode": "", "decode": "window = 8\nstride = 6"}  # without tiles, which the host cuts and puts together


def untiled(folder, name, device, source=SOURCE, model=None, graph="", read="", **more):
    """A round trip whose latents may stay on the device."""
    lines = {part: f'{WHOLE[part]}\ndevice = "{device}"\n{more.get(part, "")}' for part in WHOLE}
    return write_graph(folder / f"{name}.toml", source, folder / f"{name}.mp4", model=model or vae(), graph=graph, read=read, **lines)


def latents_edge(graph, *arguments):
    return next(line for line in plan(graph, 1 << 36, *arguments)[1].splitlines() if line.startswith("vae_encode.latents>"))


def counts(folder, name, graph):
    """Uploads and downloads of each process that had any, most of them first."""
    path = folder / f"{name}.counts"
    os.environ["LT_FAR_COUNTS"] = str(path)
    try:
        run(graph)
    finally:
        del os.environ["LT_FAR_COUNTS"]
    return sorted(([int(word) for word in line.split()[1::3]] for line in path.read_text().splitlines()), reverse=True)


def latents_stay_on_the_device(folder):
    """What vae_encode leaves there is not uploaded again, and has the bytes of latents that were rounded on the host; also with replicas."""
    half = dict(encode='dtype = "bf16"\ncache_dtype = "f16"', decode='dtype = "bf16"', model=narrow_model(folder / "narrow"))
    near, there = untiled(folder, "near", "cpu", **half), untiled(folder, "there", "far", **half)
    assert "shared memory" in latents_edge(near) and "device memory" in latents_edge(there), latents_edge(there)
    run(near)
    met = counts(folder, "there", there)
    assert met[0][0] > 0 and met[-1][0] == 0, f"uploads {met}: vae_decode has had some"
    assert sha256(folder / "near.mp4") == sha256(folder / "there.mp4"), "another film than on the cpu"
    run(there, *sets({"stage.vae_decode.replicas": 2, "stage.vae_encode.replicas": 2, "stage.write.output": folder / "several.mp4"}))
    assert sha256(folder / "near.mp4") == sha256(folder / "several.mp4"), "another film of two replicas"


def a_plan_says_where_latents_lie(folder):
    there = untiled(folder, "g", "far")
    text = plan(there, 1 << 36)[1]
    slots = int(latents_edge(there).split()[4])
    need = sum(float(number) for line in text.splitlines() if ": on far," in line for number in re.findall("([0-9.]+) MiB", line)[:2])
    total = float(re.search("^device: far, memory far away: ([0-9.]+) MiB", text, re.M).group(1))
    assert abs(total - (need + 2 * slots)) < 0.3, f"{total} MiB of the device, {need} and {slots} slots of 2 MiB\n{text}"
    for setting in ({"stage.vae_decode.device": "cpu"}, {"stage.vae_encode.device": "cpu"}, {"stage.vae_encode.tile": 64},
                    {"stage.vae_decode.tile": "64x48"}, {"stage.vae_encode.logvar": "true"}, {"graph.transport": "tcp"}):
        assert "device memory" not in latents_edge(there, *sets(setting)), setting
    there.write_text(there.read_text() + '[stage.beside]\nkind = "store"\nfrom = "vae_encode"\n')
    assert "device memory" not in latents_edge(there, *sets({"graph.cache": folder / "cache"})), "two stages want them"


def who_left_latents_there_is_killed(folder):
    """kill -9 of either end, at seeded moments: the film stays the same, of latents made again, of slots given back."""
    seconds, rng, kills, attempt = 3, random.Random(f"{SEED}/device"), [], 0
    source = SOURCE.replace("duration=1", f"duration={seconds}")
    model = narrow_model(folder / "narrow")
    run(untiled(folder, "calm", "cpu", source, model))
    while len(kills) < 6:
        attempt += 1
        assert attempt < 8, f"only {kills}"
        going = Run(untiled(folder, f"run{attempt}", "far", source, model))
        while going.running() and len(kills) < 6:
            time.sleep(rng.uniform(0.05, 0.3))
            kills += filter(None, [going.kill_stage(rng, only=rng.choice(("stage-vae_encode", "stage-vae_decode")))])
        assert going.wait() == 0, f"seed {SEED}, after {kills}:\n{going.text()[-2000:]}"
        assert sha256(folder / f"run{attempt}.mp4") == sha256(folder / "calm.mp4"), f"seed {SEED}: another film after {kills}"
    assert len(set(kills)) == 2, kills


def latents_stay_on_the_double_of_cuda(folder):
    """The same through the plug-in of CUDA, on its imitation: memory and events that two processes really open."""
    os.environ["LT_BACKEND_PATH"] = str(BIN.parent / "lib" / "cuda_on_host")
    try:
        source, hashes, model = "lavfi:testsrc2=size=16x16:rate=24:duration=0.25", {}, narrow_model(folder / "narrow")
        for name, lines in (("there", {}), ("host", {"encode": "logvar = true"})):
            graph = untiled(folder, name, "cuda:0", source, model, read="chunk = 2", **lines)
            assert ("device memory" in latents_edge(graph)) == (name == "there"), latents_edge(graph)
            run(graph)
            hashes[name] = sha256(folder / f"{name}.mp4")
        assert len(set(hashes.values())) == 1, hashes
    finally:
        os.environ["LT_BACKEND_PATH"] = str(BIN.parent / "lib" / "tests")


def frames_at_once(text):
    found = re.search("^vae_encode: .*, ([0-9]+) frames at once", text, re.M)
    return int(found.group(1)) if found else 1


def a_device_takes_several_frames_at_once(folder):
    """As many as there is memory for, where nobody says how many: the same film of fewer calls. The cpu takes one."""
    film, brought, model = set(), {}, narrow_model(folder / "narrow")
    for name, device, batch in (("near", "cpu", 0), ("one", "far", 1), ("any", "far", 0)):
        graph = untiled(folder, name, device, model=model, encode=f"batch = {batch}\nlogvar = true")
        assert frames_at_once(plan(graph, 1 << 36)[1]) == (8 if name == "any" else 1), plan(graph, 1 << 36)[1]
        if device == "far":
            brought[name] = sum(up for up, _ in counts(folder, name, graph))
        else:
            run(graph)
        film.add(sha256(folder / f"{name}.mp4"))
    assert len(film) == 1, "another film of several frames at once"
    assert brought["one"] - brought["any"] == 24 - 3, f"uploads {brought}: 24 frames are 3 chunks"


def a_continued_run_has_as_many(folder):
    """What memory the device had free is recorded: the second time it has less, and as many frames are taken at once."""
    source, model = SOURCE.replace("duration=1", "duration=4"), narrow_model(folder / "narrow")
    run(untiled(folder, "calm", "far", source, model))
    graph, manifest = untiled(folder, "killed", "far", source, model), folder / "killed.mp4.longtake" / "manifest.json"
    going = Run(graph)
    wait_until(lambda: manifest.exists() and any("vae_encode" in program for program in going.stages().values()), 30, "the stages run")
    time.sleep(0.5)
    going.process.kill()
    assert going.wait() != 0, "it was over before it was killed"

    def recorded():
        return {stage["name"]: stage for stage in json.loads(manifest.read_text())["stages"]}["vae_encode"]["resolved"]["memory"]

    first, less = recorded(), 57 << 20
    assert frames_at_once(plan(graph, less)[1]) < 8, "it has as many with less memory, too"
    assert frames_at_once(plan(graph, less, *sets({"stage.vae_encode.memory": first}))[1]) == 8, "other memory is recorded"
    os.environ["LT_FAR_TOTAL"] = str(less)
    try:
        text = run(graph)
    finally:
        del os.environ["LT_FAR_TOTAL"]
    assert "continues the run" in text and recorded() == first, text
    assert sha256(folder / "killed.mp4") == sha256(folder / "calm.mp4"), "another film"


def plan(graph, total, *arguments):
    done = subprocess.run([BIN / "orchestrator", "plan", graph, *arguments], env=dict(os.environ, LT_FAR_TOTAL=str(total)),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode()


def a_plan_knows_the_device(folder):
    """What it takes stands in the plan; what it has not is refused, of one stage and of all together."""
    graph = write_graph(folder / "g.toml", SOURCE, folder / "o.mp4", model=vae(), replicas=2, encode='device = "far"', decode='device = "far"')
    code, text = plan(graph, 1 << 36)
    assert code == 0 and "device: far, memory far away: " in text and " for 4 processes, 64.0 GiB free of 64.0 GiB" in text, text
    assert text.count("on far, memory far away: workspace") == 2, text
    need = [float(number) for line in text.splitlines() if ": on far," in line for number in re.findall("([0-9.]+) MiB", line)[:2]]
    everything = 2 * sum(need)
    code, text = plan(graph, int((everything - 1) * 2**20), *sets({"stage.vae_decode.memory": "1T", "stage.vae_encode.memory": "1T"}))
    assert code == 1 and "the stages on it take" in text and "vae_encode 2 x" in text and "replicas" in text, (code, text)
    code, text = plan(graph, 1 << 20)
    assert code == 1 and "too few" in text and "vae_encode" in text, (code, text)
    code, text = plan(graph, 1 << 36, *sets({"stage.vae_encode.device": "auto", "stage.vae_decode.device": "cpu"}))
    assert code == 0 and "vae_encode: device = c" in text, text
    for device, words in (("far:1", "there is one device 'far'"), ("nosuch:0", "longtake_nosuch.so"), ("stale", "another build")):
        code, text = plan(graph, 1 << 36, *sets({"stage.vae_encode.device": device}))
        assert code == 1 and words in text, (code, text)


def who_decodes_is_planned(folder):
    """By hardware where this machine has some; the film is the same, as is the digest that the cache goes by."""
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24:duration=0.5", "-c:v", "libx264", "-pix_fmt", "yuv420p",
                    folder / "in.mp4"], check=True)
    model, films = narrow_model(folder / "narrow"), set()
    for who in ("none", "auto"):
        graph = write_graph(folder / f"{who}.toml", folder / "in.mp4", folder / f"{who}.mp4", model=model, read=f'hwaccel = "{who}"', cache=folder / "cache")
        text = plan(graph, 1 << 36)[1]
        found = re.search("^read: hwaccel = (.*)$", text, re.M)
        assert (found is not None) == (who == "auto"), text
        assert not found or found.group(1) != "none" or "read: decoded in software: no hardware decodes h264 here" in text, text
        text = run(graph)
        films.add(sha256(folder / f"{who}.mp4"))
    assert len(films) == 1, films
    report = (folder / "auto.mp4.longtake" / "report.json").read_text()
    stages = {stage["name"]: stage for stage in json.loads(report)["stages"]}
    assert stages["vae_encode"]["cached"] > 0, report
    code, text = plan(graph, 1 << 36, *sets({"stage.read.hwaccel": "nonsense"}))
    assert code == 1 and "this FFmpeg knows none, " in text, text


if __name__ == "__main__":
    need_model()
    with tempfile.TemporaryDirectory(prefix="lt-test-models-") as models:
        text_to_video.TINY = pathlib.Path(models)
        main([a_round_trip_has_the_bytes_of_the_cpu, video_to_video_has_the_bytes_of_the_cpu, other_text_encoders_and_networks,
              latents_stay_on_the_device, a_plan_says_where_latents_lie, who_left_latents_there_is_killed, latents_stay_on_the_double_of_cuda,
              a_device_takes_several_frames_at_once, a_continued_run_has_as_many, who_decodes_is_planned, a_plan_knows_the_device, a_lost_device_costs_a_chunk, a_full_device_is_waited_for])
