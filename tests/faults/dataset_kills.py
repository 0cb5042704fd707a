"""kill -9 over the stage kinds of data sets, at any moment: no clip is lost, none is failed for it, and every byte is that of an undisturbed run.

    tests/faults/dataset_kills.py [SEED...]        $LT_SEEDS: how many seeds (2)
"""

import json
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from datasets import clips_of, decode, latents, make_clip, precompute  # noqa: E402
from harness import Folder, Run, narrow_model, need_model, run, sha256  # noqa: E402

CLIPS = 10


def killed(graph, rng, kills, expect=0):
    """Run to the end with kills of stages, two at once now and then; what was killed."""
    going, dead, next_kill = Run(graph), [], time.monotonic() + 0.3
    while going.running():
        time.sleep(0.01)
        if len(dead) >= kills or time.monotonic() < next_kill:
            continue
        for _ in range(rng.choice((1, 1, 2))):
            program = going.kill_stage(rng)
            if program:
                dead.append(program)
        next_kill = time.monotonic() + rng.uniform(0.02, 0.5)
    code = going.wait()
    assert code == expect, f"exit code {code}:\n{going.text()}"
    return dead


def bytes_of(folder, cache):
    """The exported bytes of every clip."""
    hashes = {}
    for name in clips_of(cache):
        latents("export", cache, name, folder / "x.safetensors")
        hashes[name] = sha256(folder / "x.safetensors")
    return hashes


def seed(folder, number, expected, wanted):
    rng = random.Random(number)
    cache, model, manifest = folder / f"cache{number}", folder / "model", folder / "clips.json"
    graph = precompute(folder / f"p{number}.toml", manifest, cache, model, replicas=rng.choice((1, 2)), read="chunk = 4",
                       graph='transport = "tcp"' if rng.random() < 0.5 else "")
    dead = killed(graph, rng, 6, expect=3)
    there = bytes_of(folder, cache)
    assert there == expected, f"seed {number}: other clips or bytes"
    latents("verify", cache)
    failed = json.loads(pathlib.Path(f"{cache}.longtake/failed.json").read_text())
    assert [pathlib.Path(entry["path"]).name for entry in failed] == ["broken.mp4"], failed
    dead += killed(decode(folder / f"d{number}.toml", cache, folder / f"out{number}" / "{clip}.mp4", model, write="segment = 8"), rng, 4)
    videos = {path.name: sha256(path) for path in sorted((folder / f"out{number}").glob("*.mp4"))}
    assert videos == wanted, f"seed {number}: other videos"
    return dead


def main(seeds):
    with Folder("dataset-kills") as folder:
        for i in range(CLIPS):
            make_clip(folder / f"{i}.mp4", 0.4 + 0.1 * i, "64x48" if i % 3 else "48x64", source=("testsrc", "testsrc2")[i % 2], audio=i == 4)
        (folder / "broken.mp4").write_bytes((folder / "1.mp4").read_bytes()[:1500])
        names = [f"{i}.mp4" for i in range(CLIPS)]
        names.insert(4, "broken.mp4")
        (folder / "clips.json").write_text(json.dumps([{"path": name} for name in names]))
        narrow_model(folder / "model")
        cache = folder / "cache"
        run(precompute(folder / "p.toml", folder / "clips.json", cache, folder / "model", read="chunk = 4"), expect=3)
        expected = bytes_of(folder, cache)
        assert len(expected) == CLIPS, sorted(expected)
        run(decode(folder / "d.toml", cache, folder / "out" / "{clip}.mp4", folder / "model", write="segment = 8"))
        wanted = {path.name: sha256(path) for path in sorted((folder / "out").glob("*.mp4"))}
        assert len(wanted) == CLIPS
        counts = {}
        for number in seeds:
            for program in seed(folder, number, expected, wanted):
                counts[program] = counts.get(program, 0) + 1
        print(f"{len(seeds)} seeds, {sum(counts.values())} kills: {', '.join(f'{n} {program}' for program, n in sorted(counts.items()))}")
        assert sum(counts.values()) >= 5 * len(seeds), "too few kills hit anything"


if __name__ == "__main__":
    need_model()
    main([int(text) for text in sys.argv[1:]] or list(range(int(os.environ.get("LT_SEEDS", 2)))))
