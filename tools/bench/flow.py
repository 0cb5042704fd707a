"""flow - what the dataflow itself costs: a part of tools/bench/bench.

Stages that only sleep (those of tests/pipeline/stages) show how much of the slowest one's time a run takes, and how replicas share work.
"""

import shutil
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

def seconds(tools, folder, units, replicas):
    """Wall seconds of a run of `units` units that sleep UNIT_MS in each replica."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = folder / "graph.toml"
    graph.write_text(GRAPH.format(bin=tools, units=units, unit_ms=UNIT_MS, replicas=replicas, folder=folder))
    begin = time.monotonic()
    subprocess.run([tools / "orchestrator", "run", graph], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin

def bench(tools, work):
    """Each replica has 10 s of sleep, however many there are; starting and ending are counted."""
    per_replica = 10000 // UNIT_MS
    base = None
    for replicas in (1, 2, 4, 8):
        wall = seconds(tools, work / "flow", per_replica * replicas, replicas)
        base = base or wall
        slowest = per_replica * UNIT_MS / 1e3
        print(f"{f'sleeping stages, {replicas} replica(s)':<34} {wall:8.2f} s, {wall / slowest:5.3f} of the slowest stage (goal: 1.05), "
              f"scaling {base / wall:5.1%} (goal: 95 %)", flush=True)
