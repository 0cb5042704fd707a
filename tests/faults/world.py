"""What the world does to a run: processes that stop, disks that fill, a clock that jumps. Nothing is lost, a sentence says what
happened, and the same command goes on to the same bytes.

    tests/faults/world.py [NAME...]        LT_SEED=N repeats one choice of moments
    tests/faults/world.py --every-change   the disk is full at each single change in turn (about 100 times two runs)

The library made of shim.c is taken from $LT_SHIM, or from the build beside $LT_BIN.
"""

import os
import pathlib
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from harness import BIN, Folder, Run, main, narrow_model, need_model, run, sha256, skip, wait_until, write_graph  # noqa: E402

SHIM = pathlib.Path(os.environ.get("LT_SHIM") or BIN.parent / "tests" / "faults" / "libfaults_shim.so").resolve()
SEED = int(os.environ.get("LT_SEED", "20240601"))
MOMENTS = 8  # of a full disk, without --every-change
DEADLINE = 30  # seconds without a sign of life that the orchestrator allows a stage
SHORT = "lavfi:testsrc2=size=64x64:rate=24:duration=1"
LONG = "lavfi:testsrc2=size=64x64:rate=24:duration=20"
OPTIONS = dict(read="chunk = 4", write="segment = 8", decode="window = 4\nstride = 3")


def shimmed(**settings):
    return {**os.environ, "LD_PRELOAD": str(SHIM), **{f"LT_SHIM_{name}": str(value) for name, value in settings.items()}}


def go(graph, environment):
    """Exit code and text of a run in another world."""
    finished = subprocess.run([BIN / "orchestrator", "run", str(graph)], env=environment, stdin=subprocess.DEVNULL, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return finished.returncode, finished.stdout.decode(errors="replace")


# ---- stops -----------------------------------------------------------------------------------------------------------


def pid_of(going, program):
    return next((pid for pid, name in going.stages().items() if name == program), None)


def stopped_run(folder, name, program, replicas, model):
    """A run whose `program` (None: the orchestrator) is stopped for longer than anyone waits. The run, the process, and the seconds before that."""
    graph = write_graph(folder / f"{name}.toml", LONG, folder / f"{name}.mp4", cache=folder / f"{name}.cache", replicas=replicas, model=model,
                        **OPTIONS)
    going, began = Run(graph), time.monotonic()
    wait_until(lambda: list(folder.glob(f"{name}.mp4.longtake/segments/*")) or not going.running(), 60, f"a segment of {name}")
    pid = pid_of(going, program) if program else going.pid
    assert pid, f"{program} was not there to be stopped:\n{going.text()}"
    os.kill(pid, signal.SIGSTOP)
    return going, pid, time.monotonic() - began


def seconds_of(text):
    """How long the run took, by its last line."""
    return float(re.search(r" frames in ([\d.]+) s, ", text)[1])


def stopped(folder):
    model = narrow_model(folder / "model")
    run(write_graph(folder / "undisturbed.toml", LONG, folder / "undisturbed.mp4", model=model, **OPTIONS))
    expected = sha256(folder / "undisturbed.mp4")
    runs = {
        # One of two writers of a cache, perhaps in its transaction: the other one waits for it.
        "writer": stopped_run(folder, "writer", "stage-vae_encode", 2, model),
        "mux": stopped_run(folder, "mux", "stage-mux", 1, model),
        "orchestrator": stopped_run(folder, "orchestrator", None, 1, model),
    }
    time.sleep(DEADLINE + 4)
    for name, (going, pid, before) in runs.items():
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
        code, text = going.wait(), going.text()
        assert code == 0, f"{name} stopped: exit code {code}:\n{text[-2000:]}"
        assert sha256(folder / f"{name}.mp4") == expected, f"{name} stopped: the output differs"
        if name == "orchestrator":
            assert "no sign of life" not in text, f"stages were blamed for the orchestrator's sleep:\n{text}"
        elif name != "writer" or seconds_of(text) > before + DEADLINE:
            # A writer that was stopped when it had nothing to write is not missed by a run that ends before anyone may complain.
            assert "no sign of life" in text, f"nobody noticed that {name} was stopped:\n{text}"


class InBackground(threading.Thread):
    """stopped() beside the other tests: it waits most of the time."""

    def __init__(self):
        super().__init__()
        self.error = None
        self.start()

    def run(self):
        try:
            with Folder("stopped") as folder:
                stopped(folder)
        except BaseException as error:  # noqa: BLE001
            self.error = error


background = None


def stopped_processes(folder):
    (background or InBackground()).join()
    if background.error:
        raise background.error


# ---- clock -----------------------------------------------------------------------------------------------------------


def a_clock_that_jumps(folder):
    """The calendar may say anything: only texts and logs show it."""
    model = narrow_model(folder / "model")
    run(write_graph(folder / "calm.toml", SHORT, folder / "calm.mp4", model=model, **OPTIONS))
    graph = write_graph(folder / "wild.toml", SHORT, folder / "wild.mp4", cache=folder / "cache", model=model, transport="tcp", **OPTIONS)
    began = time.monotonic()
    code, text = go(graph, shimmed(CLOCK=1))
    assert code == 0, text
    assert sha256(folder / "wild.mp4") == sha256(folder / "calm.mp4")
    dates = {line[:5] for line in text.splitlines() if line[2:3] == ":"}
    assert len(dates) > 3, f"the clock did not jump:\n{text}"
    assert time.monotonic() - began < 60, "somebody waited for the calendar"
    code, text = go(graph, shimmed(CLOCK=1))
    assert code == 0 and "finished" in text, text


# ---- disk ------------------------------------------------------------------------------------------------------------


def full_at(folder, room, model, expected):
    """A run on a disk that takes `room` changes, continued where there is room again. The changes it made."""
    disk = folder / f"disk-{room}"
    disk.mkdir()
    count = folder / "count"
    count.write_bytes(struct.pack("<QQ", 0, room))
    graph = write_graph(folder / f"{room}.toml", SHORT, disk / "out.mp4", cache=disk / "cache", model=model, **OPTIONS)
    code, text = go(graph, shimmed(DISK=disk, COUNT=count))
    changes = struct.unpack("<QQ", count.read_bytes())[0]
    said = "no space" in text.lower() or "full" in text
    assert code in (0, 1) and (said or changes <= room), f"room for {room} changes: exit code {code}:\n{text}"
    for bad in ("Segmentation", "Assertion", "bug in Longtake", "code 101"):
        assert bad not in text, f"room for {room} changes:\n{text}"
    if code:
        run(graph)
    assert sha256(disk / "out.mp4") == expected, f"room for {room} changes: the continued output differs"
    verified = subprocess.run([BIN / "latents", "verify", disk / "cache"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert verified.returncode == 0, f"room for {room} changes: {verified.stdout}"
    subprocess.run(["rm", "-rf", disk], check=True)
    return changes


def a_disk_that_fills_at_each_change(folder):
    model = narrow_model(folder / "model")
    run(write_graph(folder / "whole.toml", SHORT, folder / "whole.mp4", cache=folder / "cache", model=model, **OPTIONS))
    expected = sha256(folder / "whole.mp4")
    changes = full_at(folder, 1 << 40, model, expected)
    moments = range(changes) if every_change else sorted(random.Random(SEED).sample(range(changes), MOMENTS))
    for room in moments:
        full_at(folder, room, model, expected)
    print(f"a run makes {changes} changes to its disk; it was full at {len(moments)} of them (seed {SEED})")


if __name__ == "__main__":
    every_change = "--every-change" in sys.argv
    if every_change:
        sys.argv.remove("--every-change")
    need_model()
    if not SHIM.exists():
        skip(f"there is no {SHIM} (it is not built under sanitizers): nothing of this test ran")
    if not sys.argv[1:] or "stopped_processes" in sys.argv[1:]:
        background = InBackground()
    main([a_clock_that_jumps, a_disk_that_fills_at_each_change, stopped_processes])
