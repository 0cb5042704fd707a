"""gpu - the checks and the table of tools/gpu-check, which says what it is for.

    gpu.py --bin FOLDER --tests FOLDER --fixtures FOLDER [--device cuda:0] [--small] [--part NAME]... [--json FILE] [--before FILE] [--seconds N]

Work is done in the order of its worth, each item within its own limit and within what is left of all; what has no time left is not run, and the
table says so. Exit code 0: everything that ran passed and was in time; 1: something failed or was not run; goals of speed that are missed are
no failure.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import gpu_table
import networks
from gpu_lines import LINES, lite_sora_program
from gpu_torch import Torch

SAMPLES = 256
MODELS = ("vae", "text", "denoiser", "denoiser_sdxl3d", "tiling")
SANITIZERS = ("memcheck", "racecheck", "initcheck")
CHOICE = re.compile(r"^choice: (.*)\n", re.MULTILINE)


class NoTime(Exception):
    pass


class Run:
    """What all items share: options, the clock, the models that were made, and the results."""

    def __init__(self, options):
        self.o, self.begun = options, time.monotonic()
        self.results = json.loads(pathlib.Path(options.before).read_text())["results"] if options.before else {}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gpu-check-", dir=self.roomy()))
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "LT_FIXTURES": options.fixtures, "LT_TEST_DEVICE": options.device,
                            "LT_CUDA_CHOICES": "1"}
        self.choices = []  # what the last command told of the libraries' engines and algorithms, each once
        self.gpu = options.device.startswith("cuda")
        # Processors without bf16 instructions take seconds for what is to take none.
        self.dtype = "bf16" if self.gpu else "f32"
        self.torch = Torch("cuda" if self.gpu else "cpu", self.environment)

    @staticmethod
    def roomy():
        """Where 30 GiB of weights and a cache have room: memory, or the disk."""
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        return "/dev/shm" if free > 30 << 30 else None

    def left(self):
        return self.o.seconds - (time.monotonic() - self.begun)

    def limit(self, most):
        most = min(most, self.left())
        if most < 3:
            raise NoTime
        return most

    def command(self, command, most, feed=""):
        """Output of a program, and its exit code; 124 after its limit, when what it started is ended with it."""
        process = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                   env=self.environment, start_new_session=True)
        try:
            said, code = process.communicate(feed, timeout=self.limit(most))[0], process.returncode
        except (subprocess.TimeoutExpired, NoTime):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            said, code = process.communicate()[0], 124
        self.choices = list(dict.fromkeys(CHOICE.findall(said)))
        return CHOICE.sub("", said), code

    def model(self, name):
        path = self.folder / name
        return path if path.exists() else networks.make(name, path, self.o.small)


def verdict(said, code):
    """An entry of a check; its last lines where it failed."""
    if code == 77:
        return {"result": "skipped: " + (said.strip().splitlines() or [""])[-1][:120]}
    if code == 0:
        return {"result": "passed"}
    told = [line for line in said.splitlines() if re.search(r"FAIL|[Ee]rror|bytes|ERROR", line)][:12] or said.splitlines()[-4:]
    return {"result": "stopped at its limit" if code == 124 else f"FAILED, code {code}", "said": told, "failed": True}


# ---- checks ----------------------------------------------------------------------------------------------


def check_kernels(run):
    cases = "1" if run.o.small else "24"
    said, code = run.command([run.o.bin / "kernelcheck", "--device", run.o.device, "--seed", "1", "--cases", cases, *(["--op", "linear"] if run.o.small else [])], 150)
    return {**verdict(said, code), "summary": (said.strip().splitlines() or [""])[-1]}


def check_model(name):
    def check(run):
        return verdict(*run.command([run.o.tests / f"models_{name}"], 45))

    return check


def check_chunks(run):
    size, count = ("8x8", "10") if run.o.small else ("128x64", "1000")
    said, code = run.command([run.o.bin / "bench-chunks", run.model("svd_vae"), size, count, run.dtype, "--device", run.o.device], 60)
    entry = verdict(said, code)
    return {**entry, **json.loads(said)} if said.startswith("{") else entry


def check_sanitizer(tool):
    def check(run):
        program = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
        if not program or not run.gpu:
            return {"result": f"skipped: {'it is for GPUs' if program else 'there is no compute-sanitizer here'}"}
        said, code = run.command([program, "--tool", tool, "--error-exitcode", "9", run.o.bin / "kernelcheck", "--device", run.o.device, "--seed", "2", "--cases", "1"], 100)
        return {**verdict(said, code), "summary": (said.strip().splitlines() or [""])[-1]}

    return check


RATE = re.compile(r"^(.{36}) (\w+) +([\d.]+) ms +([\d.]+) (GFLOP|GB)/s", re.MULTILINE)


def rates(run, only, most):
    said, code = run.command([run.o.bin / "kernelcheck", "--bench", "--device", run.o.device, *(["--op", only] if only else [])], most)
    rows = [dict(operator=m[0].strip(), dtype=m[1], ms=float(m[2]), rate=float(m[3]), unit=m[4] + "/s") for m in RATE.findall(said)]
    return rows, said, code


def check_rates(run):
    if run.o.small:
        return {"result": "passed", "rates": rates(run, "pixels to values", 30)[0] if not run.gpu else []}
    rows, said, code = rates(run, None, 120)
    return {**verdict(said, code), "rates": rows}


def ceiling(run):
    """The matrix rate: the larger of Longtake's own 8192^3 in bf16 through cuBLASLt, and PyTorch's."""
    only = "8192x8192" if run.gpu else "linear 147456x256"
    ours, said, code = rates(run, only, 60) if not run.o.small else ([], "", 0)
    theirs = run.torch.ask(dict(work="matmul", size=64 if run.o.small else 8192, dtype=run.dtype), run.limit(60))
    values = {"ours": max((r["rate"] / 1e3 for r in ours), default=0), "torch": theirs.get("tflops", 0)}
    entry = verdict(said, code) if code else {"result": "passed"}
    return {**entry, **values, "tflops": max(values.values())}


# ---- lines -----------------------------------------------------------------------------------------------


def arguments_of(run, line, program):
    put = {"DTYPE": run.dtype, "THREADS": str(1 if run.o.small else 16)}
    return [run.o.bin / program[0], run.model(line.network), *(put.get(a, a) for a in program[1:])]


def flops_of(run, line, program):
    said, code = run.command([*arguments_of(run, line, program), "--flops"], 30)
    return json.loads(said)["products"] if code == 0 else None


def ours(line):
    def measure(run):
        program, rounds, warm = line.small if run.o.small else line.program, 2 if run.o.small else line.rounds, 1 if run.o.small else 2
        command = [*arguments_of(run, line, program), "--device", run.o.device, "--samples", SAMPLES]
        said, code = run.command(command, 90, "go\n" * (warm + rounds))
        choices = run.choices
        if code or not said.startswith("{"):
            return {**verdict(said, code or 1), "command": " ".join(map(str, program)), "choices": choices}
        first, *passes = said.splitlines()
        times = [float(p.split()[0]) for p in passes][warm:]
        entry = {"result": "passed", "command": " ".join(map(str, program)), "times": times, "choices": choices, **json.loads(first)}
        if not entry["same_bytes"] or not all(map(math.isfinite, entry["samples"])):
            entry.update(result="FAILED: a second pass gave other bytes" if not entry["same_bytes"] else "FAILED: results that are not finite", failed=True)
        if line.whole and not run.o.small:
            entry["whole_over_measured"] = flops_of(run, line, line.whole) / entry["products"]
        without = [choice for choice in choices if choice.endswith(": none")]
        if without:  # it was done another way, which the time is of
            entry["said"] = [f"no engine or algorithm: {choice}" for choice in without]
        return entry

    return measure


def theirs(line, mode):
    def measure(run):
        if not run.torch.there:
            return {"result": "no torch", "why": run.torch.why}
        if run.o.small and mode != "eager" and not run.o.compile:
            return {"result": "not run", "why": "a rehearsal without --compile"}
        task = line.task_small if run.o.small else line.task
        kind = "channels_last" if mode == "eager" and line.network == "svd_vae" else mode
        rounds = dict(rounds=2, warm=1, threads=1) if run.o.small else dict(rounds=max(5, line.rounds) if not line.whole else 3, warm=2 if not line.whole else 1)
        said = run.torch.ask({**task, **rounds, "model": str(run.model(line.network)), "dtype": run.dtype, "mode": kind, "samples": SAMPLES}, run.limit(180))
        if "error" in said:
            return {"result": said["error"], "mode": kind}
        entry = {"result": "passed", "mode": kind, **said}
        if line.whole and not run.o.small:
            entry["whole_over_measured"] = flops_of(run, line, lite_sora_program(line.whole_task)) / flops_of(run, line, lite_sora_program(line.task))
        return entry

    return measure


def stream(run):
    """Frames from a process that makes them in host memory, through the stage vae_encode, into the cache."""
    if not (run.o.bin / "orchestrator").exists():
        return {"result": "skipped: built without the stages (LT_ONLY_MODELS)"}
    size, short, long = ("64x40", 8, 16) if run.o.small else ("1920x1080", 64, 364)
    graph, took = run.folder / "stream.toml", []
    graph.write_text(STREAM.format(source=run.o.tests / "stage-null_source", model=run.model("svd_vae"), device=run.o.device, dtype=run.dtype, size=size))
    for frames in (short, long):
        sets = [f"stage.frames.frames={frames}", f"graph.cache={run.folder / f'cache-{frames}'}", f"graph.run={run.folder / f'run-{frames}'}"]
        said, code = run.command([run.o.bin / "orchestrator", "run", graph, "--fresh", "--json", *(a for s in sets for a in ("--set", s))], 90)
        ends = [json.loads(line) for line in said.splitlines() if '"event":"end"' in line]
        if code or not ends or ends[-1].get("outcome") != "finished":
            return verdict(said, code or 1)
        took.append(ends[-1]["seconds"])
    more = took[1] - took[0]  # of a rehearsal's few frames noise may make it negative
    return {"result": "passed", "frames": [short, long], "seconds": took, "fps": (long - short) / more if more > 0 else None, "fps_with_start": long / took[1]}


STREAM = """[graph]
cache = "cache"

[stage.frames]
exec = "{source}"
size = "{size}"
chunk = 8

[stage.vae_encode]
kind = "vae_encode"
from = "frames"
model = "{model}"
device = "{device}"
dtype = "{dtype}"
batch = 8
cache_dtype = "bf16"

[stage.keep]
kind = "store"
from = "vae_encode"
"""


def seam(run):
    """Worst step between frames that the default windows make and one window does not, as a part of the clip's own change from frame to frame: 96 frames in f32."""
    frames, cells, window, stride = (6, 2, 4, 3) if run.o.small else (96, 16, 32, 24)
    outs = []
    for name, plan in (("windows", (window, stride)), ("whole", (frames, frames))):
        outs.append(run.folder / f"seam-{name}.f32")
        command = [run.o.bin / "bench-decode", run.model("svd_vae"), f"{frames}x{cells}x{cells}", *plan, f"{cells}x{cells}", f"{cells}x{cells}", 1, outs[-1], "f32", "--encode"]
        said, code = run.command([*command, "--device", run.o.device], 60)
        if code:
            return verdict(said, code)
    return {"result": "passed", **gpu_table.seam_of(*outs, frames), "size": f"{8 * cells}x{8 * cells}"}


# ---- order -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Item:
    name: str
    group: str
    measure: object


def items():
    lines = {line.name: line for line in LINES}
    yield Item("ceiling", "ceiling", ceiling)
    yield Item("kernels", "checks", check_kernels)
    for name in MODELS:
        yield Item(f"models_{name}", "checks", check_model(name))
    yield Item("chunks", "checks", check_chunks)
    for line in LINES:
        yield Item(f"{line.name}/ours", line.name, ours(line))
    yield Item("stream", "stream", stream)
    yield Item("seam", "seam", seam)
    sides = [line for line in LINES if line.name != "job_default"]  # whose other side is job_own's
    vaes = [line for line in sides if line.network == "svd_vae" and not line.whole]
    others = [line for line in sides if line.network != "svd_vae"]
    for line in vaes:
        yield Item(f"{line.name}/eager", line.name, theirs(line, "eager"))
    for line in others:
        yield Item(f"{line.name}/compile", line.name, theirs(line, "compile"))
    yield Item("job_own/eager", "job_own", theirs(lines["job_own"], "eager"))
    for line in vaes:
        yield Item(f"{line.name}/compile", line.name, theirs(line, "compile"))
    for line in others:
        yield Item(f"{line.name}/eager", line.name, theirs(line, "eager"))
    for tool in SANITIZERS:
        yield Item(tool, "sanitizer", check_sanitizer(tool))
    yield Item("rates", "rates", check_rates)
    for line in (*others, *vaes):
        yield Item(f"{line.name}/max-autotune", "tune", theirs(line, "max-autotune"))


def wanted(item, parts):
    return not parts or item.name in ("ceiling",) or item.group in parts or item.name in parts or item.name.split("/")[-1] in parts


def perform(run, item):
    begun = time.monotonic()
    try:
        run.limit(3)
        entry = item.measure(run)
    except NoTime:
        entry = {"result": "not run: no time left", "failed": True}
    except Exception as error:  # of the script itself: the others still have their lines
        entry = {"result": f"FAILED: {type(error).__name__}: {error}"[:300], "failed": True}
    entry["seconds_taken"] = round(time.monotonic() - begun, 1)
    if entry["result"].startswith("not run") and item.name in run.results:
        return  # what an earlier call measured stands
    run.results[item.name] = entry
    print(f"{item.name:<28} {entry['result']}, {entry['seconds_taken']} s", flush=True)
    for line in entry.get("said", []):
        print(f"    {line}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bin", "tests"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--fixtures", required=True)
    parser.add_argument("--revision", default="unknown")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="tiny networks and shapes: a rehearsal, that measures nothing")
    parser.add_argument("--compile", action="store_true", help="with --small: torch.compile, too")
    parser.add_argument("--part", action="append", default=[], help="only this: ceiling, checks, kernels, a line's name, ours, eager, compile, stream, seam, sanitizer, rates, tune")
    parser.add_argument("--json", default="gpu-check.json")
    parser.add_argument("--before", help="the JSON of an earlier call, whose results stand where this one has none")
    parser.add_argument("--seconds", type=float, default=470, help="all of it ends within so many")
    return parser.parse_args(argv)


def main(argv):
    options = parse(argv)
    run = Run(options)
    try:
        for item in items():
            if wanted(item, options.part):
                perform(run, item)
    finally:
        run.torch.close()
        shutil.rmtree(run.folder, ignore_errors=True)
    report = {"revision": options.revision, "device": options.device, "small": options.small, "machine": gpu_table.machine(run), "results": run.results}
    pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    gpu_table.show(report)
    print(f"wrote {options.json}")
    return 1 if any(entry.get("failed") for entry in run.results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
