"""The orchestrator with the real runtime: stages that do nothing but what can be checked (tests/pipeline/stages), killed.

    LT_BIN=build/bin tests/unit/orchestrator_kills_test.py [NAME...]
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import time

from orchestrator_place import BIN, has, main, same, test, wait_until


class Null:
    """Graphs of tests/pipeline/stages; skipped, and said, where those were not built."""

    def __init__(self, place):
        self.place = place
        self.programs = BIN / "tests"
        self.is_there = (self.programs / "stage-null_sink").exists()
        if not self.is_there:
            print("skipped: the null stages are not built: 1 case")

    def graph(self, name, transport="auto", sleep=4, work=""):
        return self.place.write(f"""
[graph]
transport = "{transport}"
[stage.read]
exec = "{self.programs}/stage-null_source"
frames = 2000
sleep_ms = {sleep}
[stage.work]
exec = "{self.programs}/stage-null_filter"
from = "read"
window = 3
stride = 2
sleep_ms = {sleep}
{work}
[stage.write]
exec = "{self.programs}/stage-null_sink"
from = "work"
sleep_ms = {sleep}
output = "{name}.txt"
""", f"{name}.toml")

    def children(self, pid):
        try:
            return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def output(self, name):
        return (self.place.path / f"{name}.txt").read_text()


@test
def the_bytes_survive_kills(place):
    null, rng = Null(place), random.Random(7)
    if not null.is_there:
        return
    place.call("run", null.graph("calm", sleep=0))
    for transport, replicas in (("auto", 1), ("auto", 2), ("tcp", 2)):
        name, kills = f"{transport}{replicas}", 0
        going = place.start("run", null.graph(name, transport, work=f"replicas = {replicas}"))
        while going.poll() is None and kills < 12:
            time.sleep(rng.uniform(0.05, 0.4))
            children = null.children(going.pid)
            for pid in rng.sample(children, min(len(children), rng.randint(1, 2))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        text = going.communicate(timeout=50)[0]
        assert going.returncode == 0 and kills > 3, f"{kills} kills, exit code {going.returncode}:\n{text}"
        assert null.output(name) == null.output("calm"), f"{name}: other bytes after {kills} kills"


@test
def a_killed_run_continues_with_the_same_bytes(place):
    null = Null(place)
    if not null.is_there:
        return
    place.call("run", null.graph("calm", sleep=0))
    graph = null.graph("run")
    for _ in range(3):
        going = place.start("run", graph)
        wait_until((place.path / "run.txt.longtake" / "manifest.json").exists, what="the run begins")
        time.sleep(0.3)
        children = null.children(going.pid)
        going.kill()
        going.communicate()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children), 10, "the stages end")
    has(place.call("run", graph), "continues the run")
    same(null.output("run"), null.output("calm"))
    same(os.listdir(place.path / "run"), [])


@test
def frames_of_windows_that_overlap_count_once(place):
    null = Null(place)
    if not null.is_there:
        return
    text = place.call("run", null.graph("windows", sleep=4), "--json")
    seen = [event for event in map(json.loads, text.splitlines()) if event["event"] == "progress"]
    frames = {stage["name"]: stage["frames"] for stage in seen[-1]["stages"]}
    assert len(seen) > 1 and 0 < frames["write"] <= frames["work"] <= frames["write"] + 100, seen
    assert seen[-1]["stages"][1]["frames_total"] == 2000, seen


@test
def a_unit_that_crashes_is_named(place):
    null = Null(place)
    if not null.is_there:
        return
    text = place.call("run", null.graph("crash", sleep=0, work="crash_unit = 7"), code=1)
    has(text, "stage work crashed 3 times on clip clip0, frames 14-16 (unit 7) (signal 6, Aborted); see ")
    has(place.call("run", null.graph("fail", sleep=0, work="fail_unit = 7"), code=1), "stage work: unit 7")


if __name__ == "__main__":
    main()
