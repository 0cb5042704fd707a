"""precompute - precomputing latents: Longtake against a plain PyTorch loop, on the same clips and the same cores."""

import pathlib
import shutil
import statistics
import subprocess
import time

SIZE, FRAMES = "384x216", 8


def make_clips(folder, n):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        if not (folder / f"{i:03d}.mp4").exists():
            subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=size={SIZE}:rate=24", "-vf", f"hue=h={i * 20}",
                            "-frames:v", str(FRAMES), "-c:v", "libx264", folder / f"{i:03d}.mp4"], check=True)
    (folder / "clips.jsonl").write_text("".join(f'{{"path": "{i:03d}.mp4"}}\n' for i in range(n)))


def graph(path, clips, cache, model, threads):
    path.write_text(f"""
[graph]
cache = "{cache}"
threads = {threads}
[stage.read]
kind = "decode"
manifest = "{clips / "clips.jsonl"}"
audio = "none"
[stage.vae_encode]
kind = "vae_encode"
from = "read"
model = "{model}"
[stage.keep]
kind = "store"
from = "vae_encode"
""")
    return path


def ours(bin_folder, graph_path, cache):
    """Wall seconds of a whole run, its start included."""
    for folder in (cache, pathlib.Path(f"{cache}.longtake")):
        shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run([bin_folder / "orchestrator", "run", graph_path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def bench(arguments, bin_folder, python, work, model, turn):
    n = 8 if arguments.small else 24
    clips, cache = work / f"clips-{SIZE}-{FRAMES}", work / "datasets-cache"
    make_clips(clips, n)
    path = graph(work / "datasets.toml", clips, cache, model, arguments.threads)
    program = pathlib.Path(__file__).parent / "torch_precompute.py"
    loops = {mode: turn(python, program, model, clips, work / f"latents-{mode}", arguments.threads, mode) for mode in ("eager", "channels_last")}
    loops = {mode: loop for mode, loop in loops.items() if loop.facts}
    times, reference = [], {mode: [] for mode in loops}
    for _ in range(arguments.rounds):
        times.append(ours(bin_folder, path, cache))
        for mode, loop in loops.items():
            reference[mode].append(loop.seconds())
    for loop in loops.values():
        loop.close()
    seconds = statistics.median(times)
    line = f"{'precompute, ' + str(n) + ' clips of ' + str(FRAMES):<34} {n / seconds:8.2f} clips/s, start included"
    if reference:
        mode, best = min(((mode, statistics.median(values)) for mode, values in reference.items()), key=lambda item: item[1])
        line += f"   {best / seconds:5.2f}x a PyTorch loop ({mode})"
    print(line, flush=True)
