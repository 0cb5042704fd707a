"""kill -9 of any stage at any moment: the run goes on, and the output is that of an undisturbed run.

    tests/faults/kills.py [NAME...]        LT_SEED=N repeats one sequence of kills

At least 50 kills happen in one run of this file; it counts them and fails when there were fewer.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from harness import BIN, Run, main, need_model, run, sha256, stage_pids, wait_until, write_graph  # noqa: E402

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


if __name__ == "__main__":
    need_model()
    main([one_stage_at_a_time, with_a_cache, two_at_once, replicas, replicas_and_cache_two_at_once, tcp, tcp_replicas_and_cache,
          the_orchestrator, enough_kills])
