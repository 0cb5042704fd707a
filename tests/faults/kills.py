"""kill -9 of any stage at any moment: the run goes on, and the output is that of an undisturbed run.

    tests/faults/kills.py [NAME...]                    LT_SEED=N repeats one sequence of kills
    tests/faults/kills.py --kills N [--record FILE]    until N kills have happened, one world after the other: every stage kind,
                                                       two at once, replicas, both transports, one clip and data sets. FILE
                                                       (kills.jsonl) gets a line a run; the same command goes on from there.

At least 50 kills happen in one run of the tests; they are counted, and fewer are a failure. --kills ends with "N kills, N
differing bytes" and fails when there is one.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from datasets import clips_of, decode, make_clip, precompute  # noqa: E402
from harness import BIN, Folder, Run, main, need_model, run, sha256, stage_pids, wait_until, write_graph  # noqa: E402

FRAMES = 144
SOURCE = f"lavfi:testsrc2=size=96x64:rate=24:duration={FRAMES / 24}"
SEED = int(os.environ.get("LT_SEED", "20240601"))
KILLS_WANTED = 52
OPTIONS = dict(read="chunk = 4", write="segment = 24", decode="window = 8\nstride = 6")

reference_hash = None
kills = {}


def reference(folder):
    """The bytes of an undisturbed run, made once."""
    global reference_hash
    if reference_hash is None:
        output = folder / "reference.mp4"
        run(write_graph(folder / "reference.toml", SOURCE, output, **OPTIONS))
        reference_hash = sha256(output)
    return reference_hash


def disturbed(folder, name, n_kills, at_once=1, **graph):
    expected = reference(folder)
    rng = random.Random(f"{SEED}/{name}")
    done = attempt = 0
    while done < n_kills:
        attempt += 1
        assert attempt <= 8, f"only {done} of {n_kills} kills met a living stage in {attempt - 1} runs"
        output = folder / f"{name}-{attempt}.mp4"
        cache = folder / f"{name}-{attempt}.cache" if graph.get("cache") else None
        going = Run(write_graph(folder / f"{name}-{attempt}.toml", SOURCE, output, **{**OPTIONS, **graph, "cache": cache}))
        while going.running() and done < n_kills:
            time.sleep(rng.uniform(0.02, 0.5))
            for _ in range(at_once):
                program = going.kill_stage(rng)
                if program:
                    done += 1
                    kills[program] = kills.get(program, 0) + 1
        code = going.wait()
        assert code == 0, f"seed {SEED}: exit code {code} after {done} kills:\n{going.text()[-2000:]}"
        assert sha256(output) == expected, f"seed {SEED}: {output} differs after {done} kills"


def one_stage_at_a_time(folder):
    disturbed(folder, "single", 10)


def with_a_cache(folder):
    disturbed(folder, "cache", 8, cache=True)


def two_at_once(folder):
    disturbed(folder, "pairs", 10, at_once=2)


def replicas(folder):
    disturbed(folder, "replicas", 8, replicas=2)


def replicas_and_cache_two_at_once(folder):
    disturbed(folder, "replicas-cache", 8, replicas=2, cache=True, at_once=2)


def tcp(folder):
    disturbed(folder, "tcp", 6, transport="tcp")


def tcp_replicas_and_cache(folder):
    disturbed(folder, "tcp-replicas", 6, transport="tcp", replicas=2, cache=True)


def inodes(run_folder):
    """{file: inode} of the finished segments: those in the list."""
    try:
        listed = json.loads((run_folder / "segments.json").read_text())["segments"]
    except FileNotFoundError:
        return {}
    return {segment["file"]: (run_folder / "segments" / segment["file"]).stat().st_ino for segment in listed}


def cache_transactions(cache):
    stat = subprocess.run([BIN / "latents", "stat", cache, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(stat.stdout)["last_transaction"]


def the_orchestrator(folder):
    """Stages end by themselves; the same command continues with what is durable: no finished segment and no cached chunk is made again."""
    expected = reference(folder)
    output, cache = folder / "out.mp4", folder / "cache"
    graph = write_graph(folder / "run.toml", SOURCE, output, cache=cache, **OPTIONS)
    run_folder = folder / "out.mp4.longtake"
    for _ in range(3):
        going = Run(graph)
        before = len(inodes(run_folder))
        wait_until(lambda: not going.running() or len(inodes(run_folder)) > before, 60, "one more segment")
        if not going.running():
            break
        stages = stage_pids(going.pid)
        os.kill(going.pid, signal.SIGKILL)
        going.process.wait()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/cmdline").read() for pid in stages),
                   10, "the stages of a killed orchestrator end")
    finished, chunks = inodes(run_folder), cache_transactions(cache)
    n_chunks = (FRAMES + 3) // 4
    missing = n_chunks - cached_chunks(cache)
    run(graph)
    assert sha256(output) == expected, "the continued run's output differs"
    after = inodes(run_folder)
    assert all(after.get(name) == inode for name, inode in finished.items()), f"segments were made again: {finished} -> {after}"
    written = cache_transactions(cache) - chunks
    assert written <= missing + 2, f"{written} cache transactions for {missing} missing chunks"
    text = run(graph)
    assert "finished" in text, f"a finished run should say so: {text}"


def cached_chunks(cache):
    stat = subprocess.run([BIN / "latents", "stat", cache, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(stat.stdout)["chunks"]


def enough_kills(folder):
    total = sum(kills.values())
    print(f"kills: {total}: {', '.join(f'{n} {program}' for program, n in sorted(kills.items()))}")
    assert total >= KILLS_WANTED, f"{total} kills, {KILLS_WANTED} wanted"
    assert len(kills) == 4, f"not every stage kind was killed: {sorted(kills)}"


# ---- any number of kills --------------------------------------------------------------------------------------------------


def one_clip(folder, name, **graph):
    """A graph from video to video, and the files it shall make."""
    if graph.pop("cache", False):
        graph["cache"] = folder / f"{name}.cache"
    return write_graph(folder / f"{name}.toml", SOURCE, folder / f"{name}.mp4", **OPTIONS, **graph), [folder / f"{name}.mp4"]


def clips(folder):
    """Three clips of unlike sizes and lengths, and a manifest of them; made once."""
    manifest = folder / "clips.json"
    if not manifest.exists():
        for name, seconds, size in (("a", 2, "64x48"), ("b", 1.3, "48x64"), ("c", 0.4, "80x40")):
            make_clip(folder / f"{name}.mp4", seconds, size)
        manifest.write_text(json.dumps([{"path": f"{name}.mp4", "text": f"clip {name}"} for name in "abc"]))
    return manifest


def into_a_cache(folder, name, transport="auto", replicas=1):
    cache = folder / f"{name}.cache"
    return precompute(folder / f"{name}.toml", clips(folder), cache, read="chunk = 4", graph=f'transport = "{transport}"', replicas=replicas), [cache]


def out_of_a_cache(folder, name):
    """Videos from latents that one undisturbed run has computed."""
    cache = folder / "filled.cache"
    if not cache.exists():
        run(precompute(folder / "fill.toml", clips(folder), cache, read="chunk = 4"))
    outputs = [folder / name / f"{clip}.mp4" for clip in "abc"]
    return decode(folder / f"{name}.toml", cache, folder / name / "{clip}.mp4", decode="window = 4\nstride = 3", write="segment = 8"), outputs


def exported(path, folder):
    """The files to compare for what a run made: itself, or the latents of each clip of a cache."""
    if path.suffix != ".cache":
        return [path]
    files = []
    for name, clip in sorted(clips_of(path).items()):
        files.append(folder / f"{path.stem}-{name}.safetensors")
        subprocess.run([BIN / "latents", "export", path, name, files[-1]], stdout=subprocess.DEVNULL, check=True)
    return files


WORLDS = {
    "one clip": (one_clip, {}, 1),
    "a cache": (one_clip, dict(cache=True), 1),
    "two at once": (one_clip, {}, 2),
    "replicas": (one_clip, dict(replicas=2), 1),
    "replicas, a cache, two at once": (one_clip, dict(replicas=2, cache=True), 2),
    "tcp": (one_clip, dict(transport="tcp"), 1),
    "tcp, replicas, a cache, two at once": (one_clip, dict(transport="tcp", replicas=2, cache=True), 2),
    "clips into a cache": (into_a_cache, {}, 1),
    "clips into a cache, replicas, two at once": (into_a_cache, dict(replicas=2), 2),
    "clips into a cache, tcp": (into_a_cache, dict(transport="tcp"), 1),
    "clips out of a cache": (out_of_a_cache, {}, 1),
}


def differing_bytes(got, wanted):
    a, b = got.read_bytes() if got.exists() else b"", wanted.read_bytes()
    return abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b))


def soak_run(folder, world, index, most):
    """One run with at most `most` kills; what happened, for the record."""
    make, graph, at_once = WORLDS[world]
    slug = "".join(c if c.isalnum() else "-" for c in world)
    rng = random.Random(f"{SEED}/{world}/{index}")
    wanted = folder / f"wanted-{slug}.json"
    if not wanted.exists():
        toml, made = make(folder, f"calm-{slug}", **graph)
        run(toml)
        wanted.write_text(json.dumps([str(file) for path in made for file in exported(path, folder)]))
    toml, made = make(folder, f"wild-{slug}", **graph)
    died = {}
    going = Run(toml)
    while going.running() and sum(died.values()) < most:
        time.sleep(rng.uniform(0.02, 0.5))
        for _ in range(at_once):
            program = going.kill_stage(rng)
            if program:
                died[program] = died.get(program, 0) + 1
    code = going.wait(300)
    result = {"world": world, "index": index, "seed": SEED, "kills": died, "code": code, "differing": 0}
    if code:
        result["text"] = going.text()[-2000:]
    else:
        files = [file for path in made for file in exported(path, folder)]
        pairs = list(zip(files, map(pathlib.Path, json.loads(wanted.read_text())), strict=True))
        result["differing"] = sum(differing_bytes(*pair) for pair in pairs)
    for path in folder.glob(f"wild-{slug}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return result


def soak(n_kills, record):
    results = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    results = [result for result in results if result["seed"] == SEED]
    with Folder("soak") as folder:
        while sum(sum(result["kills"].values()) for result in results) < n_kills:
            world = list(WORLDS)[len(results) % len(WORLDS)]
            left = n_kills - sum(sum(result["kills"].values()) for result in results)
            most = 12 if len(results) >= len(WORLDS) else 4  # see every world soon
            result = soak_run(folder, world, len(results), min(left, most))
            results.append(result)
            with open(record, "a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{world}: {result['kills']}, code {result['code']}, {result['differing']} differing bytes", flush=True)
    by_stage = {}
    for result in results:
        for program, n in result["kills"].items():
            by_stage[program] = by_stage.get(program, 0) + n
    failed = [result for result in results if result["code"]]
    differing = sum(result["differing"] for result in results)
    for result in failed:
        print(f"{result['world']} (run {result['index']}) ended with code {result['code']}:\n{result['text']}")
    print(f"seed {SEED}, {len(results)} runs, {len(failed)} failed: {', '.join(f'{n} {program}' for program, n in sorted(by_stage.items()))}")
    print(f"{sum(by_stage.values())} kills, {differing} differing bytes")
    return 1 if failed or differing else 0


if __name__ == "__main__":
    need_model()
    if "--kills" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--kills", type=int, required=True)
        parser.add_argument("--record", type=pathlib.Path, default=pathlib.Path("kills.jsonl"))
        arguments = parser.parse_args()
        sys.exit(soak(arguments.kills, arguments.record))
    main([one_stage_at_a_time, with_a_cache, two_at_once, replicas, replicas_and_cache_two_at_once, tcp, tcp_replicas_and_cache,
          the_orchestrator, enough_kills])
