"""From prompts to a playable file through every process: the graphs in examples/ on tiny models with random weights.

    tests/pipeline/text_to_video.py [NAME...]         LT_SEED=N repeats one sequence of kills
    tests/pipeline/text_to_video.py two_thousand_windows      minutes long, not in the suite
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fixtures"))
from harness import BIN, TRAINED, ROOT, Run, main, narrow_model, need_model, run, sha256, stage_pids  # noqa: E402
from message import fields  # noqa: E402
import tiny_models  # noqa: E402

SEED = int(os.environ.get("LT_SEED", "20240601"))
TINY = pathlib.Path(tempfile.gettempdir())
SIZE, WIDE = "64x48", 64


def tiny(family):
    """The folder of a family's models, made once a run."""
    folder = TINY / family
    if not folder.exists():
        tiny_models.FAMILIES[family](folder)
    return folder


def vae():
    """A VAE as wide as a test needs."""
    folder = TINY / "vae"
    return folder if folder.exists() else narrow_model(folder)


def sets(values):
    """{"stage.option": value} as arguments; text is quoted, so that TOML takes it as it is."""
    quoted = {key: json.dumps(str(value)) if isinstance(value, (str, pathlib.Path)) else json.dumps(value) for key, value in values.items()}
    return [argument for key, value in quoted.items() for argument in ("--set", f"{key}={value}")]


def stage(**values):
    return {f"stage.{name}.{option}": value for name, options in values.items() for option, value in options.items()}


def frames_of(path):
    text = subprocess.run(["ffprobe", "-loglevel", "error", "-count_frames", "-select_streams", "v:0", "-show_entries",
                           "stream=nb_read_frames,width,height", "-of", "json", path], stdout=subprocess.PIPE, check=True).stdout
    stream = json.loads(text)["streams"][0]
    return int(stream["nb_read_frames"]), stream["width"], stream["height"]


def video_dit(folder, output, **denoise):
    """Overrides of the long graph for the tiny VideoDiT v2: 48 frames in windows of 8."""
    family = tiny("latent-dit")
    options = dict(model=family / "denoising_model" / "model.safetensors", size=SIZE, frames=48, window=8, stride=4, steps=4, transition=0.4)
    timeline = [{"at": 0, "text": "red bird"}, {"at": 0.9, "text": "blue sky at night"}]
    return {"graph.cache": folder / "cache",
            **stage(prompt=dict(model=family / "text_encoder", tokenizer=family / "text_encoder"), denoise={**options, **denoise},
                    vae_decode=dict(model=vae(), window=8, stride=6), write=dict(output=output, segment=16)),
            "stage.prompt.prompts": timeline}


LONG = ROOT / "examples" / "text-to-long-video.toml"


# ---- every graph plays


def play(folder, name, expected, values, output=None):
    output = output or folder / f"{name}.mp4"
    run(ROOT / "examples" / f"{name}.toml", *sets({**values, "stage.write.output": output}))
    assert frames_of(output) == expected, f"{name}: {frames_of(output)}, expected {expected}"
    return output


def every_network_plays(folder):
    pixels, latents, pixart, sdxl = tiny("pixel-dit"), tiny("latent-dit"), tiny("pixart"), tiny("sdxl")
    decode = dict(model=vae())
    text = dict(model=latents / "text_encoder", tokenizer=latents / "text_encoder")
    network = latents / "denoising_model" / "model.safetensors"
    play(folder, "pixel-dit", (9, 24, 24), stage(
        prompt=dict(model=pixels / "text_encoder", tokenizer=pixels / "text_encoder"),
        denoise=dict(model=pixels / "denoising_model" / "model.safetensors", size="24x24", frames=9, steps=3)))
    play(folder, "latent-dit", (12, 64, 48), stage(prompt=text, vae_decode=decode, denoise=dict(model=network, size=SIZE, frames=12, steps=3)))
    play(folder, "pixart-video", (9, 64, 48), stage(
        prompt=dict(model=pixart), vae_decode=decode,
        denoise=dict(model=pixart / "denoising_model" / "model.safetensors", size=SIZE, frames=9, steps=3)))
    play(folder, "sdxl-3d", (8, 64, 48), stage(
        prompt=dict(model=sdxl, tokenizer=sdxl / "tokenizer", tokenizer_2=sdxl / "tokenizer_2"), vae_decode=decode,
        denoise=dict(model=sdxl / "unet", size=SIZE, frames=8, steps=3)))


def a_plan_says_it_once(folder):
    """No line stands there twice, and what an option was set to is not told again in a sentence."""
    clip = "lavfi:testsrc2=size=64x48:rate=24:duration=2"
    graphs = {LONG: {**video_dit(folder, folder / "a.mp4"), "stage.vae_decode.replicas": 2},
              ROOT / "examples" / "roundtrip.toml": {"graph.cache": folder / "cache", **stage(read=dict(input=clip), write=dict(output=folder / "b.mp4"))},
              ROOT / "examples" / "live.toml": stage(read=dict(input=f"{clip},realtime", live=True), write=dict(output=folder / "c.mp4"))}
    for graph, values in graphs.items():
        text = subprocess.run([BIN / "orchestrator", "plan", graph, *sets(values)], stdout=subprocess.PIPE, check=True).stdout.decode()
        notes = re.findall(r"^(\w+): (.+)$", text, re.M)
        settings = [(name, *pair.split(" = ")) for name, note in notes if " = " in note for pair in note.split(", ")]
        assert len(set(notes)) == len(notes) > 5 and {"tile", "window", "numerics"} <= {name for _, name, _ in settings}, text
        for where, option, value in settings:
            again = [note for name, note in notes if name == where and " = " not in note and option in note and re.search(rf"\b{re.escape(value)}\b", note)]
            assert not again, f"{graph.name}: {where}: {option} = {value}, and {again}"
        assert text.count("not known") <= 1 and text.count("work ") <= 1, text


def a_picture_is_a_clip_of_one_frame(folder):
    pixart = tiny("pixart")
    play(folder, "pixart-video", (1, 64, 48), stage(
        prompt=dict(model=pixart), vae_decode=dict(model=vae()),
        denoise=dict(model=pixart / "transformer", size=SIZE, frames=1, steps=3)))


def video_to_video(folder):
    """Little strength keeps the video, all of it forgets it."""
    family = tiny("latent-dit")
    results = {}
    for strength in (0.01, 1.0):
        results[strength] = play(folder, "video-to-video", (30, 64, 48), {"graph.cache": folder / "cache", **stage(
            read=dict(input="lavfi:testsrc2=size=64x48:rate=24:duration=1.25", size=SIZE), vae_encode=dict(model=TRAINED),
            prompt=dict(model=family / "text_encoder", tokenizer=family / "text_encoder"), vae_decode=dict(model=TRAINED),
            denoise=dict(model=family / "denoising_model" / "model.safetensors", window=8, steps=4, strength=strength))},
            folder / f"{strength}.mp4")
    source = folder / "source.mkv"
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=1.25", "-c:v",
                    "ffv1", source], check=True)
    psnr = {}
    for strength, path in results.items():
        text = subprocess.run([BIN / "compare", source, path, "--json"], stdout=subprocess.PIPE, check=True).stdout
        psnr[strength] = json.loads(text.decode().splitlines()[-1])["video"]["global"]
    assert psnr[0.01] > psnr[1.0] + 3, psnr


def a_data_set_after_prompts(folder):
    """Three clips and one that is damaged between them, each made anew after its own caption; run again, and one more added in front."""
    family, narrow = tiny("latent-dit"), vae()
    for i, size in enumerate(("64x48", "48x64", "64x48")):
        subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=24:duration={0.5 + 0.25 * i}",
                        "-c:v", "ffv1", folder / f"{i}.mkv"], check=True)
    (folder / "damaged.mkv").write_text("this is no video")
    entries = [{"path": f"{name}.mkv", "text": f"red bird {name}"} for name in ("0", "1", "damaged", "2")]
    (folder / "clips.json").write_text(json.dumps(entries))

    def values(out, prompt, **more):
        return sets({"graph.cache": folder / "cache", **stage(
            read=dict(manifest=folder / "clips.json", size="64x48"), vae_encode=dict(model=narrow),
            prompt=dict(model=family / "text_encoder", tokenizer=family / "text_encoder", prompt=prompt, negative="blue sky"),
            denoise=dict(model=family / "denoising_model" / "model.safetensors", window=8, steps=3, strength=0.7),
            vae_decode=dict(model=narrow), write=dict(output=folder / out / "{clip}.mkv", codec="ffv1")), **more})

    graph = folder / "v2v.toml"
    graph.write_text((ROOT / "examples" / "video-to-video.toml").read_text().replace('input = "film.mp4"\n', ""))
    text = run(graph, *values("own", "{caption}, at night"), expect=3)
    assert "3 clips done" in text and "1 failed" in text, text
    made = {name: sha256(folder / "own" / f"{name}.mkv") for name in "012"}
    assert [frames_of(folder / "own" / f"{name}.mkv")[0] for name in "012"] == [12, 18, 24]
    # Nothing is made twice; what is added, in front, is made alone.
    assert "0 clips done" in run(graph, *values("own", "{caption}, at night"), expect=3)
    os.rename(folder / "damaged.mkv", folder / "gone.mkv")
    entries = [{"path": "0.mkv", "name": "first", "text": "red bird 0"}] + [e for e in entries if "damaged" not in e["path"]]
    (folder / "clips.json").write_text(json.dumps(entries))
    assert "1 clips done" in run(graph, *values("own", "{caption}, at night"))
    # A clip's noise is that of its name, not of its place; its prompt is its caption.
    going, rng, kills = Run(graph, *values("again", "{caption}, at night", **{"graph.cache": folder / "fresh"})), random.Random(f"{SEED}/set"), 0
    while going.running() and kills < 5:
        time.sleep(rng.uniform(0.1, 0.4))
        kills += going.kill_stage(rng, only="stage-text_encode" if kills % 2 else None) is not None
    assert going.wait() == 0, f"seed {SEED}: {going.text()[-2000:]}"
    assert {name: sha256(folder / "again" / f"{name}.mkv") for name in "012"} == made, "the place in the manifest shows"
    assert sha256(folder / "again" / "first.mkv") != made["0"], "two clips have the same noise"
    run(graph, *values("one", "sunset"))
    assert all(sha256(folder / "one" / f"{name}.mkv") != made[name] for name in "012"), "the prompt is not heard"
    # Without a caption there is nothing to put there.
    entries[1].pop("text")
    (folder / "clips.json").write_text(json.dumps(entries))
    run(graph, *values("none", "{caption}"), expect=3)
    failed = json.loads((folder / "none.longtake" / "failed.json").read_text())
    assert len(failed) == 1 and "no caption" in failed[0]["error"], failed
    # Left alone, a text source has one text.
    alone = folder / "alone.toml"
    alone.write_text(graph.read_text().replace('from = "read"\nmodel = "models/text', 'model = "models/text'))
    assert 'from = "STAGE"' in run(alone, *values("alone", "sunset"), expect=2)


def a_clip_may_be_longer_than_those_that_were_planned(folder):
    """Without a window a clip is denoised at once: one that the plan did not look at takes more latents at once than there are slots."""
    family, narrow = tiny("latent-dit"), vae()
    manifest, graph = folder / "clips.json", folder / "v2v.toml"
    graph.write_text((ROOT / "examples" / "video-to-video.toml").read_text().replace('input = "film.mp4"\n', ""))

    def values(out):
        return sets({"graph.cache": folder / out / "cache", **stage(
            read=dict(manifest=manifest, size="64x48", chunk=1), vae_encode=dict(model=narrow),
            prompt=dict(model=family / "text_encoder", tokenizer=family / "text_encoder", prompt="sunset"),
            denoise=dict(model=family / "denoising_model" / "model.safetensors", window=0, stride=0, steps=2, strength=0.7),
            vae_decode=dict(model=narrow), write=dict(output=folder / out / "{clip}.mkv", codec="ffv1"))})

    entries = [{"name": f"{i}", "path": f"lavfi:testsrc2=size=64x48:rate=24:duration={4 if i == 16 else 0.25}"} for i in range(40)]
    manifest.write_text(json.dumps(entries[16:17]))
    run(graph, *values("alone"))
    manifest.write_text(json.dumps(entries))
    assert "40 clips done" in run(graph, *values("all"))
    assert frames_of(folder / "all" / "16.mkv")[0] == 96
    assert sha256(folder / "all" / "16.mkv") == sha256(folder / "alone" / "16.mkv")


# ---- what must not change a byte


def same_bytes_however_it_is_run(folder):
    hashes = {}
    for name, values in {
        "memory": {},
        "tcp": {"graph.transport": "tcp"},
        "replicas": {"stage.vae_decode.replicas": 2, "stage.vae_decode.window": 8},
        "one-thread": {"graph.threads": 1},
    }.items():
        output = folder / f"{name}.mp4"
        run(LONG, *sets({**video_dit(folder / name, output), **values}))
        hashes[name] = sha256(output)
    assert len(set(hashes.values())) == 1, hashes
    other = folder / "other.mp4"
    run(LONG, *sets(video_dit(folder / "other", other, seed=1)))
    assert sha256(other) != hashes["memory"], "another seed made the same video"


def timed(start):
    """What start() gives, a run's exit code, and the seconds until then."""
    began = time.monotonic()
    return start(), time.monotonic() - began


def disturbed(name, n_kills, calm, rng, start, often):
    """Runs, one after the other, until n_kills have met a living stage, moments spread over the calm run's seconds. start(attempt) gives a run
    and its output. `often`: the share of kills aimed at denoise. Returns outputs and kills by program."""
    outputs, kills = [], {}
    while sum(kills.values()) < n_kills:
        assert len(outputs) < 12, f"seed {SEED}, {name}: only {kills} in {len(outputs)} runs"
        going, output = start(len(outputs))
        while going.running() and sum(kills.values()) < n_kills:
            time.sleep(rng.uniform(0.02, max(0.05, calm / 5)))
            program = going.kill_stage(rng, only="stage-denoise" if rng.random() < often else None)
            if program:
                kills[program] = kills.get(program, 0) + 1
        code = going.wait()
        assert code == 0, f"seed {SEED}, {name}: exit code {code} after {kills}:\n{going.text()[-2000:]}"
        outputs.append(output)
    return outputs, kills


def kills_do_not_show(folder):
    """kill -9 of text_encode, denoise, their neighbours and the orchestrator, at seeded moments."""
    expected, rng, kills = folder / "expected.mp4", random.Random(f"{SEED}/text"), {}
    heavy = dict(steps=6, frames=96)
    calm = timed(lambda: run(LONG, *sets(video_dit(folder / "expected", expected, **heavy))))[1]
    no_cache = folder / "no-cache.toml"
    no_cache.write_text(LONG.read_text().replace('cache = "cache"', ""))

    def start(name, graph, attempt):
        output = folder / f"{name}-{attempt}.mp4"
        values = video_dit(folder / f"{name}-{attempt}", output, **heavy)
        if graph == no_cache:
            values.pop("graph.cache")
        return Run(graph, *sets(values), log=folder / f"{name}-{attempt}.log"), output

    for name, n_kills, graph in (("stages", 8, LONG), ("run-folder", 4, no_cache)):
        outputs, met = disturbed(name, n_kills, calm, rng, lambda attempt: start(name, graph, attempt), 0.75)
        for output in outputs:
            assert sha256(output) == sha256(expected), f"seed {SEED}: {output} differs after {met}"
        kills = {program: kills.get(program, 0) + met.get(program, 0) for program in {**kills, **met}}
    output, attempts = folder / "orchestrator.mp4", 0
    values = video_dit(folder / "orchestrator", output, **heavy)
    while True:
        attempts += 1
        going = Run(LONG, *sets(values), log=folder / "orchestrator.log")
        end = time.monotonic() + (calm * rng.uniform(0.1, 0.6) if attempts < 6 else 120)
        while going.running() and time.monotonic() < end:
            time.sleep(0.02)
        if not going.running() and (kills.get("orchestrator") or attempts >= 6):
            break
        if not going.running():  # the machine has become faster than when the undisturbed run was timed: once more, killed sooner
            assert going.wait() == 0, going.text()[-2000:]
            calm, output = calm / 3, folder / f"orchestrator-{attempts}.mp4"
            values = video_dit(folder / f"orchestrator-{attempts}", output, **heavy)
            continue
        os.kill(going.pid, signal.SIGKILL)
        going.process.wait()
        kills["orchestrator"] = kills.get("orchestrator", 0) + 1
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any("denoise" in p for p in stage_pids(1).values()):
            time.sleep(0.02)
    assert going.wait() == 0, going.text()[-2000:]
    assert sha256(output) == sha256(expected), f"seed {SEED}: differs after kills of the orchestrator"
    print(f"  kills: {kills}")
    assert kills.get("stage-denoise", 0) >= 4 and kills.get("orchestrator", 0) >= 1, kills


def kills_do_not_show_in_video_to_video(folder):
    """Encoded latents come in order into the wavefront, whoever dies; over TCP, from two replicas."""
    family, rng = tiny("latent-dit"), random.Random(f"{SEED}/video")

    def start(name, transport):
        output = folder / f"{name}.mp4"
        values = {"graph.cache": folder / f"{name}.cache", "graph.transport": transport, **stage(
            read=dict(input="lavfi:testsrc2=size=64x48:rate=24:duration=3", size=SIZE, chunk=4), vae_encode=dict(model=vae(), replicas=2),
            prompt=dict(model=family / "text_encoder", tokenizer=family / "text_encoder"), vae_decode=dict(model=vae(), window=8, stride=6),
            denoise=dict(model=family / "denoising_model" / "model.safetensors", window=8, stride=4, steps=6, strength=0.7),
            write=dict(output=output, segment=16))}
        return Run(ROOT / "examples" / "video-to-video.toml", *sets(values), log=folder / f"{name}.log"), output

    undisturbed, expected = start("undisturbed", "auto")
    code, calm = timed(undisturbed.wait)
    assert code == 0, undisturbed.text()[-2000:]
    outputs, kills = disturbed("killed", 6, calm, rng, lambda attempt: start(f"killed-{attempt}", "tcp"), 0.5)
    for output in outputs:
        assert sha256(output) == sha256(expected), f"seed {SEED}: {output} differs after {kills}"


def equal_texts_are_encoded_once(folder):
    """Twice the same prompt, and the empty negative one: two embeddings in the cache, which Python's tools can read."""
    output = folder / "a.mp4"
    values = video_dit(folder, output, frames=12, cfg_scale=3.0)
    values["stage.prompt.prompts"] = [{"at": 0, "text": "red bird"}, {"at": 0.2, "text": "red bird"}]
    run(LONG, *sets(values))
    stat = json.loads(subprocess.run([BIN / "latents", "stat", folder / "cache", "--json"], stdout=subprocess.PIPE, check=True).stdout)
    before = stat["last_transaction"]
    subprocess.run([BIN / "latents", "verify", folder / "cache"], check=True, stdout=subprocess.DEVNULL)
    raw = (folder / "cache" / "data.mdb").read_bytes()
    assert raw.count(b'"n_tokens"') >= 2
    run(LONG, *sets({**values, "stage.write.output": folder / "b.mp4"}))
    stat = json.loads(subprocess.run([BIN / "latents", "stat", folder / "cache", "--json"], stdout=subprocess.PIPE, check=True).stdout)
    assert stat["last_transaction"] == before, "something that was cached was written again"
    assert sha256(output) == sha256(folder / "b.mp4")


def captions_of_a_manifest(folder):
    """40 clips with 35 different captions, and the empty negative prompt: 36 embeddings, written once."""
    entries = [{"path": f"{i}.mp4", "text": f"red bird {i % 35}"} for i in range(40)]
    (folder / "clips.json").write_text(json.dumps(entries))
    family, transactions = tiny("latent-dit"), []
    for _ in range(2):
        text = run(ROOT / "examples" / "precompute-text.toml", "--fresh", *sets({"graph.cache": folder / "cache", **stage(
            text=dict(manifest=folder / "clips.json", model=family / "text_encoder", tokenizer=family / "text_encoder", dtype="f32"))}))
        stat = json.loads(subprocess.run([BIN / "latents", "stat", folder / "cache", "--json"], stdout=subprocess.PIPE, check=True).stdout)
        transactions.append(stat["last_transaction"])
        assert "42 texts" in text and "frames" not in text.splitlines()[-2], text
    assert transactions[0] == transactions[1], transactions
    keys = set(re.findall(rb"text/[0-9a-f]{32}/", (folder / "cache" / "data.mdb").read_bytes()))
    assert len(keys) == 36, len(keys)


def captions_through_a_t5(folder):
    """12 short captions and the empty one, in batches of 8 that are padded; weights are kept where they fit, which changes no byte."""
    (folder / "clips.json").write_text(json.dumps([{"path": f"{i}.mp4", "text": f"a bird {i}"} for i in range(12)]))
    graph, keys = ROOT / "examples" / "precompute-text.toml", []
    for memory, wanted in (("1M", "repack"), ("1G", "keep")):
        values = sets({"graph.cache": folder / wanted, "graph.memory": memory,
                       **stage(text=dict(manifest=folder / "clips.json", model=tiny("pixart"), dtype="f32"))})
        planned = json.loads(subprocess.run([BIN / "orchestrator", "plan", graph, *values, "--json"], stdout=subprocess.PIPE, check=True)
                             .stdout.decode().splitlines()[-1])
        text = next(s for s in planned["stages"] if s["kind"] == "text_encode")
        assert text["resolved"]["weights"] == wanted, text
        run(graph, *values)
        keys.append(set(re.findall(rb"text/[0-9a-f]{32}/[0-9a-f]{32}", (folder / wanted / "data.mdb").read_bytes())))
    assert len(keys[0]) == 13 and keys[0] == keys[1], keys


def texts_move_a_batch_at_a_time(folder):
    """The first unit encodes the texts of all: each batch starts the progress deadline anew."""
    (folder / "clips.json").write_text(json.dumps([{"path": f"{i}.mp4", "text": f"red bird {i}"} for i in range(20)]))
    family, spy, heard = tiny("latent-dit"), folder / "spy", folder / "reports"
    spy.write_text(f'#!/bin/bash\n[ $# -gt 0 ] || exec > >(exec tee {heard})\nexec {BIN}/stage-text_encode "$@"\n')
    spy.chmod(0o755)
    graph = folder / "text.toml"
    graph.write_text((ROOT / "examples" / "precompute-text.toml").read_text().replace('kind = "text_encode"', f'exec = "{spy}"'))
    run(graph, *sets({"graph.cache": folder / "cache", **stage(
        text=dict(manifest=folder / "clips.json", model=family / "text_encoder", tokenizer=family / "text_encoder", dtype="f32", batch=4))}))
    raw, at, moves = heard.read_bytes(), 0, 0
    while at + 4 <= len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        for number, _, progress in fields(raw[at + 4 : at + 4 + length]):
            if number == 3:  # Report.progress
                moves = max([moves, *(value for field, _, value in fields(progress) if field == 11)])  # moves
        at += 4 + length
    assert moves == 5, f"{moves} moves: 21 texts are 5 whole batches, and a last one that ends the unit"


def one_damaged_embedding_goes_alone(folder):
    """verify names the text and the command; what it types takes that one out, and the next run makes it again."""
    (folder / "clips.json").write_text(json.dumps([{"path": f"{i}.mp4", "text": f"red bird {i}"} for i in range(3)]))
    family, cache = tiny("latent-dit"), folder / "cache"
    arguments = sets({"graph.cache": cache, **stage(text=dict(manifest=folder / "clips.json", model=family / "text_encoder",
                                                              tokenizer=family / "text_encoder", dtype="f32"))})
    graph = ROOT / "examples" / "precompute-text.toml"
    run(graph, *arguments)
    def verify():
        return subprocess.run([BIN / "latents", "verify", cache], stdout=subprocess.PIPE, text=True)
    whole = (cache / "data.mdb").read_bytes()
    assert verify().returncode == 0
    at = whole.index(b"red bird 1")
    at = whole.index(b"}", at) + 1200 # in the numbers behind the header
    (cache / "data.mdb").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    found = verify()
    named = re.findall(r"^(text/\w+/\w+) is damaged: its checksum is wrong; take it out with `latents rm (.*)`$", found.stdout, re.M)
    assert found.returncode == 1 and len(named) == 1 and named[0][1] == f"{cache} {named[0][0]}", found.stdout
    said = run(graph, "--fresh", *arguments, expect=1)
    assert f"latents rm {cache} {named[0][0]}" in said, said
    subprocess.run([BIN / "latents", "rm", *named[0][1].split()], check=True, stdout=subprocess.DEVNULL)
    assert verify().returncode == 0
    run(graph, "--fresh", *arguments)
    assert verify().returncode == 0


def prompts_along_the_timeline_are_heard(folder):
    """A video with a second prompt differs from one without where the second has come in, not where it is far away."""
    hashes = {}
    for name, timeline in {"one": [{"at": 0, "text": "red bird"}], "two": [{"at": 0, "text": "red bird"}, {"at": 1.5, "text": "sunset"}]}.items():
        values = video_dit(folder / name, folder / f"{name}.mp4", frames=48, steps=2, transition=0.2)
        values["stage.prompt.prompts"] = timeline
        run(LONG, *sets(values))
        text = subprocess.run(["ffmpeg", "-loglevel", "error", "-i", folder / f"{name}.mp4", "-f", "framemd5", "-"], stdout=subprocess.PIPE,
                              check=True).stdout.decode()
        hashes[name] = [line.split()[-1] for line in text.splitlines() if not line.startswith("#")]
    assert len(hashes["one"]) == 48
    assert hashes["one"][:16] == hashes["two"][:16], "the second prompt is heard before its time"
    assert hashes["one"][40:] != hashes["two"][40:], "the second prompt is not heard"


# ---- what it must withstand


def refused(folder, values, *words, code=2):
    text = run(LONG, *sets({**video_dit(folder, folder / "no.mp4"), **values}), expect=code)
    for word in words:
        assert word in text, f"\"{word}\" is not in:\n{text}"
    assert not (folder / "no.mp4").exists()


def odd_prompts(folder):
    long = " ".join(["ocean"] * 17000)
    assert len(long) > 100000
    for name, text in {"empty": "", "long": long, "scripts": "\u2600\ufe0f \u6d77 \u043c\u043e\u0440\u0435"}.items():
        values = video_dit(folder / name, folder / f"{name}.mp4", frames=8, steps=1)
        values["stage.prompt.prompts"] = [{"at": 0, "text": text}]
        run(LONG, *sets(values))
    run(LONG, *sets({**video_dit(folder / "named", folder / "{clip}.mp4", frames=8, steps=1), "stage.prompt.name": "my clip"}))
    assert (folder / "my-clip.mp4").exists(), "a name is made of any text, as decode makes one"
    family = tiny("latent-dit")
    plain = {"stage.prompt.prompts": "", "stage.prompt.model": family / "text_encoder"}
    arguments = sets({**video_dit(folder, folder / "no.mp4"), **plain}) + ["--set", b"stage.prompt.prompt=\xff\xfe bird"]
    finished = subprocess.run([BIN / "orchestrator", "run", LONG, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert finished.returncode != 0 and b"UTF-8" in finished.stdout, finished.stdout


def what_the_network_cannot_take(folder):
    refused(folder, {"stage.denoise.size": "64x40"}, "height", "multiples of", "24")
    refused(folder, {"stage.denoise.window": 7}, "multiples of 2")
    refused(folder, {"stage.denoise.model": tiny("pixart") / "denoising_model" / "model.safetensors"}, "20", "text encoder", code=1)
    refused(folder, {"stage.denoise.model": tiny("latent-dit") / "text_encoder" / "model.safetensors"}, "CLIP text encoder", code=1)
    refused(folder, {"stage.denoise.memory": "1M"}, "memory", code=1)
    refused(folder, {"stage.prompt.prompts": [{"at": 1, "text": "late"}]}, "must begin at 0")
    refused(folder, {"stage.prompt.prompts": [{"at": 0, "txt": "?"}]}, "entry 1 of prompts")


def nan_writes_nothing(folder):
    """Weights that blow up at a step: the run ends and says where."""
    family = tiny("latent-dit")
    raw = bytearray((family / "denoising_model" / "model.safetensors").read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    name = "denoising_model.unpatchify.conv_out.weight"
    begin, end = header[name]["data_offsets"]
    raw[8 + length + begin : 8 + length + end] = struct.pack("<f", 3e38) * ((end - begin) // 4)
    (folder / "wild.safetensors").write_bytes(raw)
    refused(folder, {"stage.denoise.model": folder / "wild.safetensors"}, "step ", "window ", "not finite", "prediction for prompt", code=1)


def infinite_embeddings_are_not_kept(folder):
    """What bf16 and f32 still hold is infinite in f16: the run ends, and nothing is in the cache. (Only the reference computes in f16 here.)"""
    family, wild = tiny("latent-dit"), folder / "wild"
    shutil.copytree(family / "text_encoder", wild)
    raw = bytearray((wild / "model.safetensors").read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    tensor = next(tensor for name, tensor in json.loads(raw[8 : 8 + length]).items() if name.endswith("final_layer_norm.weight"))
    begin, end = tensor["data_offsets"]
    raw[8 + length + begin : 8 + length + end] = struct.pack("<f", 1e6) * ((end - begin) // 4)
    (wild / "model.safetensors").write_bytes(raw)
    (folder / "clips.json").write_text('[{"path": "a.mp4", "text": "red bird"}]')
    for dtype, code in (("f16", 1), ("bf16", 0)):
        said = run(ROOT / "examples" / "precompute-text.toml", *sets({"graph.cache": folder / dtype, **stage(
            text=dict(manifest=folder / "clips.json", model=wild, tokenizer=wild, device="ref", dtype=dtype))}), expect=code)
        assert code == 0 or "sequence of the text encoder is not finite at number" in said, said
        kept = set(re.findall(rb"text/[0-9a-f]{32}/", (folder / dtype / "data.mdb").read_bytes()))
        assert len(kept) == (0 if code else 2), kept


# ---- memory and time


def peaks(folder, frames, steps, timeout):
    """Peak and planned bytes of the stages, and seconds until the first latents."""
    name = str(frames)
    output = folder / f"{name}.mp4"
    values = video_dit(folder / name, output, frames=frames, steps=steps)
    values["stage.vae_decode.window"] = values["stage.vae_decode.stride"] = 8
    run(LONG, *sets(values), timeout=timeout)
    stages = json.loads((folder / f"{name}.mp4.longtake" / "report.json").read_text())["stages"]
    return {stage["name"]: (stage["peak_bytes"], stage["planned_bytes"]) for stage in stages}


def compare_lengths(folder, short, long, steps, timeout):
    few, many = peaks(folder, short, steps, timeout), peaks(folder, long, steps, timeout)
    mib = 1 << 20
    for name in ("prompt", "denoise"):
        print(f"  {name}: {few[name][0] / mib:.1f} MiB for {short} frames, {many[name][0] / mib:.1f} for {long}, {many[name][1] / mib:.1f} planned")
        assert many[name][0] <= 1.05 * few[name][0] + mib / 2, f"{name} grew from {few[name][0]} to {many[name][0]} bytes"
        assert many[name][0] <= 1.1 * many[name][1], f"{name} used {many[name][0]} bytes, {many[name][1]} were planned"


def memory_does_not_grow_with_length(folder):
    compare_lengths(folder, 100, 500, 3, 120)


def two_thousand_windows(folder):
    """100 and 2,000 windows; not in the suite."""
    compare_lengths(folder, 404, 8004, 5, 1800)


if __name__ == "__main__":
    need_model()
    tests = [every_network_plays, a_plan_says_it_once, a_picture_is_a_clip_of_one_frame, video_to_video, a_data_set_after_prompts,
             same_bytes_however_it_is_run, kills_do_not_show,
             kills_do_not_show_in_video_to_video, equal_texts_are_encoded_once, captions_of_a_manifest, captions_through_a_t5, one_damaged_embedding_goes_alone, a_clip_may_be_longer_than_those_that_were_planned, infinite_embeddings_are_not_kept, texts_move_a_batch_at_a_time,
             prompts_along_the_timeline_are_heard, odd_prompts, what_the_network_cannot_take, nan_writes_nothing,
             memory_does_not_grow_with_length]
    with tempfile.TemporaryDirectory(prefix="lt-test-models-") as models:
        TINY = pathlib.Path(models)
        main(tests + [two_thousand_windows] if "two_thousand_windows" in sys.argv else tests)
