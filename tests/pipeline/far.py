"""Whole runs on a device whose memory the host cannot touch (tests/kernels/far.c): the bytes of a run on the cpu, and what a device can do to
a run: be full, be lost, be too small.

    tests/pipeline/far.py [NAME...]
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import text_to_video  # noqa: E402
from harness import BIN, ROOT, main, need_model, run, sha256, write_graph  # noqa: E402
from text_to_video import SIZE, sets, stage, tiny, vae  # noqa: E402

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


if __name__ == "__main__":
    need_model()
    with tempfile.TemporaryDirectory(prefix="lt-test-models-") as models:
        text_to_video.TINY = pathlib.Path(models)
        main([a_round_trip_has_the_bytes_of_the_cpu, video_to_video_has_the_bytes_of_the_cpu, other_text_encoders_and_networks,
              a_plan_knows_the_device, a_lost_device_costs_a_chunk, a_full_device_is_waited_for])
