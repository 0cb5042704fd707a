"""flow - what the dataflow itself costs: a part of tools/bench/bench.

Stages that only sleep (those of tests/pipeline/stages) show how much of the slowest one's time a run takes, and how replicas share work;
stages that only copy, and reads of the cache, are compared with memcpy.
"""

import ctypes
import mmap
import shutil
import statistics
import subprocess
import time

UNIT_MS = 50
GRAPH = """
[stage.read]
exec = "{bin}/tests/stage-null_source"
frames = {units}
chunk = 1

[stage.work]
exec = "{bin}/tests/stage-null_filter"
from = "read"
sleep_ms = {unit_ms}
replicas = {replicas}

[stage.write]
exec = "{bin}/tests/stage-null_sink"
from = "work"
output = "{folder}/hashes"
sync = false
"""

HAND_OFF = """
[stage.read]
exec = "{bin}/tests/stage-null_source"
frames = {units}
chunk = 1
size = "1920x1456"
copy = true

[stage.write]
exec = "{bin}/tests/stage-null_sink"
from = "read"
output = "{folder}/hashes"
sync = false
hash = false
"""
FRAME_BYTES = 1920 * 1456 * 3


def seconds(tools, folder, text, **values):
    """Wall seconds of a run of a graph."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = folder / "graph.toml"
    graph.write_text(text.format(bin=tools, folder=folder, **values))
    begin = time.monotonic()
    subprocess.run([tools / "orchestrator", "run", graph], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin

def memcpy_rate():
    """GB/s of the C library's memcpy, from memory that is not in a cache into what a slot is."""
    source, slots, count = bytearray(32 * FRAME_BYTES), mmap.mmap(-1, 4 * FRAME_BYTES), 400
    source[:] = b"\1" * len(source)
    slots[:] = b"\0" * len(slots)
    here = ctypes.addressof((ctypes.c_char * len(source)).from_buffer(source))
    there = ctypes.addressof((ctypes.c_char * len(slots)).from_buffer(slots))
    begin = time.monotonic()
    for i in range(count):
        ctypes.memmove(there + i % 4 * FRAME_BYTES, here + i % 32 * FRAME_BYTES, FRAME_BYTES)
    return count * FRAME_BYTES / (time.monotonic() - begin) / 1e9


def bench_sleeping(tools, work):
    """Each replica has 10 s of sleep, however many there are; starting and ending are counted."""
    per_replica = 10000 // UNIT_MS
    base = None
    for replicas in (1, 2, 4, 8):
        wall = seconds(tools, work / "flow", GRAPH, units=per_replica * replicas, unit_ms=UNIT_MS, replicas=replicas)
        base = base or wall
        slowest = per_replica * UNIT_MS / 1e3
        print(f"{f'sleeping stages, {replicas} replica(s)':<34} {wall:8.2f} s, {wall / slowest:5.3f} of the slowest stage (goal: 1.05), "
              f"scaling {base / wall:5.1%} (goal: 95 %)", flush=True)


def bench_memory(tools, work):
    """Frames of 8.4 MB, from a stage's memory through a slot: the difference of two runs, so that starting is not counted."""
    rates, copies = [], []
    for _ in range(5):
        short, long = (seconds(tools, work / "flow", HAND_OFF, units=units) for units in (200, 2200))
        rates.append(2000 * FRAME_BYTES / (long - short) / 1e9)
        copies.append(memcpy_rate())
    rate, copy = statistics.median(rates), statistics.median(copies)
    print(f"{'hand-off through shared memory':<34} {rate:8.1f} GB/s, {rate / copy:5.0%} of memcpy (goal: 80 %)", flush=True)
    cache = work / "flow" / "cache"
    text = subprocess.run([tools / "bench-cache", cache], check=True, stdout=subprocess.PIPE, text=True).stdout
    rate, copy = map(float, text.split())
    print(f"{'reading the cache':<34} {rate:8.1f} GB/s, {rate / copy:5.0%} of memcpy (goal: 80 %)", flush=True)


def bench(tools, work):
    bench_sleeping(tools, work)
    bench_memory(tools, work)
