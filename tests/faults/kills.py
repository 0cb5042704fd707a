"""kill -9 of any stage at any moment: the run goes on, and the output is that of an undisturbed run.

    tests/faults/kills.py [NAME...]                    LT_SEED=N: another choice of moments
    tests/faults/kills.py --kills N [--record FILE] [--jobs N]
                                                       until N kills have happened, in the worlds of kill_worlds.py one after the
                                                       other: every stage kind and the orchestrator, two at once, replicas, both
                                                       transports, one clip, data sets, text. FILE (kills.jsonl) gets a line a
                                                       run; the same command goes on from there. --jobs: runs beside each other.

The test makes 150 kills in these worlds. --kills ends with "N kills, N differing bytes" and fails when there is one, or when a run fails.
Kinds are chosen so that all die equally often; LT_SEED decides when, and not the whole of it: time does the rest.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from harness import BIN, Run, main, need_model, run, sha256, stage_pids, wait_until, write_graph  # noqa: E402
from soak import soak  # noqa: E402

FRAMES = 144
SOURCE = f"lavfi:testsrc2=size=96x64:rate=24:duration={FRAMES / 24}"
SEED = int(os.environ.get("LT_SEED", "20240601"))
KILLS, KINDS = 150, 9  # of the test; eight kinds of stages and the orchestrator
OPTIONS = dict(read="chunk = 4", write="segment = 24", decode="window = 8\nstride = 6")


def every_world(folder):
    """Each world of kill_worlds.py, and each kind of stage in all of them together."""
    counts = soak(KILLS, folder / "kills.jsonl", SEED, 2)
    print(f"kills: {', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))} (seed {SEED})")
    assert len(counts) == KINDS and min(counts.values()) >= KILLS // KINDS // 3, f"not every kind was killed as often: {counts}"


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
    run(write_graph(folder / "calm.toml", SOURCE, folder / "calm.mp4", **OPTIONS))
    expected = sha256(folder / "calm.mp4")
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


if __name__ == "__main__":
    need_model()
    if "--kills" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--kills", type=int, required=True)
        parser.add_argument("--record", type=pathlib.Path, default=pathlib.Path("kills.jsonl"))
        parser.add_argument("--jobs", type=int, default=1)
        arguments = parser.parse_args()
        soak(arguments.kills, arguments.record, SEED, arguments.jobs)
        sys.exit(0)
    main([every_world, the_orchestrator])
