"""The memory that vae_encode and vae_decode plan is what they take: RssAnon, sampled while they run, within 10 %.

    tests/pipeline/cache_memory.py [NAME...]
"""

import json
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, Run, main, need_model, write_graph  # noqa: E402

MIB = 1 << 20
BOUND = 0.10


def rss_anon(pid):
    """Bytes of anonymous memory; what is mapped from files (weights, the cache, programs) does not count."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("RssAnon"))


def check(folder, frames, size, **options):
    source = f"lavfi:testsrc2=size={size}:rate=24"
    graph = write_graph(folder / "g.toml", source, folder / "out.mp4", read=f"frames = {frames}", **options)
    plan = json.loads(subprocess.run([BIN / "orchestrator", "plan", graph, "--json"], stdout=subprocess.PIPE, check=True)
                      .stdout.decode().splitlines()[-1])
    planned = {f"stage-{stage['kind']}": stage["peak_bytes"] for stage in plan["stages"]}
    going = Run(graph)
    peaks = {}
    while going.running():
        for pid, program in going.stages().items():
            peaks[program] = max(peaks.get(program, 0), rss_anon(pid))
        time.sleep(0.01)
    assert going.wait() == 0, going.text()
    wrong = []
    for program in ("stage-vae_encode", "stage-vae_decode"):
        off = planned[program] / peaks[program] - 1
        print(f"  {program}: {peaks[program] / MIB:.1f} MiB measured, {planned[program] / MIB:.1f} planned, {off:+.1%}")
        if not abs(off) <= BOUND:
            wrong.append(f"{program}: planned {off:+.1%} off what was measured")
    assert not wrong, "; ".join(wrong)


def whole_frames(folder):
    check(folder, 20, "160x128", decode="window = 8\nstride = 6")


def tiles_and_a_cache(folder):
    check(folder, 16, "192x128", cache=folder / "cache", encode='tile = "128"\nlogvar = true',
          decode='window = 8\nstride = 8\ntile = "96x64"\ntile_stride = "72x48"')


def batches(folder):
    check(folder, 16, "128x64", encode='batch = 4\ncache_dtype = "f16"', decode='window = 4\nstride = 4\nbits = "16"')


if __name__ == "__main__":
    need_model()
    main([whole_frames, tiles_and_a_cache, batches])
