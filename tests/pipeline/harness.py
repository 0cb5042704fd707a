"""Runs of the real orchestrator with the real stages, for the tests in pipeline/ and faults/.

Python's standard library only. Programs are taken from $LT_BIN (build/bin); every run works in a folder of its own.
"""

import atexit
import hashlib
import json
import math
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LT_BIN", ROOT / "build" / "bin"))
TRAINED = ROOT / "examples" / "tiny-svd-vae"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SKIPPED = 77
SANITIZED = os.environ.get("LT_SANITIZED", "")  # set by tools/sanitize: all takes longer, and memory is the sanitizer's
SLOWER = 10 if SANITIZED else 1


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def need_model():
    if not (TRAINED / WEIGHTS).exists():
        skip("examples/tiny-svd-vae has no weights: nothing of this test ran")


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def stage_pids(orchestrator_pid):
    """{pid: stage executable} of the stages of one orchestrator that are alive."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as stat:
                after_name = stat.read().rsplit(")", 1)[1].split()
            with open(f"/proc/{entry}/cmdline", "rb") as cmdline:
                program = os.path.basename(cmdline.read().split(b"\0")[0]).decode()
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
        if int(after_name[1]) == orchestrator_pid and after_name[0] != "Z" and program.startswith("stage-"):
            found[int(entry)] = program
    return found


def narrow_model(folder, channels=32):
    """A copy of the tiny model with few channels everywhere and fixed weights: what counts processes and bytes needs no pictures. With
    fewer than 32, which a temporal decoder cannot have, it is the encoder alone."""
    encoder = channels < 32
    raw = (TRAINED / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    rng = random.Random(1)
    header, data = {}, bytearray()
    for name, tensor in json.loads(raw[8 : 8 + length]).items():
        if name == "__metadata__" or "conv_shortcut" in name or (encoder and "decoder." in name):
            continue
        shape = [channels if n >= 32 else n for n in tensor["shape"]]
        count = math.prod(shape)
        values = [1.0] * count if "norm" in name and name.endswith("weight") else [rng.uniform(-0.05, 0.05) for _ in range(count)]
        begin = len(data)
        data += struct.pack(f"<{count}e", *values)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = json.loads((TRAINED / "config.json").read_text())
    config["block_out_channels"] = [channels] * len(config["block_out_channels"])
    if encoder:
        config.update(_class_name="AutoencoderKL", norm_num_groups=channels // 4, up_block_types=["UpDecoderBlock2D"] * len(config["block_out_channels"]))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def usual_model():
    """The trained one; under a sanitizer, which makes computing ten times slower and looks at the code around it, a narrow one."""
    if not SANITIZED or not (TRAINED / WEIGHTS).exists():
        return TRAINED
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lt-test-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return narrow_model(folder / "narrow")


MODEL = usual_model()


class Folder:
    """A folder for one test, removed when the test succeeded."""

    def __init__(self, name):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"lt-test-{name}-"))

    def __enter__(self):
        return self.path

    def __exit__(self, kind, value, traceback):
        if kind is None:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            print(f"left for a look: {self.path}")


def write_graph(path, source, output, cache=None, transport="auto", replicas=1, model=MODEL, read="", encode="", decode="", write="",
                graph=""):
    """A round-trip graph; the keyword texts are further lines of a table."""
    cache_line = f'cache = "{cache}"' if cache else ""
    pathlib.Path(path).write_text(f"""
[graph]
transport = "{transport}"
{cache_line}
{graph}

[stage.read]
kind = "decode"
input = "{source}"
{read}

[stage.vae_encode]
kind = "vae_encode"
from = "read"
model = "{model}"
replicas = {replicas}
{encode}

[stage.vae_decode]
kind = "vae_decode"
from = "vae_encode"
model = "{model}"
replicas = {replicas}
{decode}

[stage.write]
kind = "mux"
from = "vae_decode"
output = "{output}"
{write}
""")
    return path


ELSEWHERE = """#!{python}
# {kind} as on a host without the graph's cache: what it is told first is changed so, the rest is passed on.
import os, struct, sys
sys.path.insert(0, "{here}")
from message import fields

def varint(value):
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

def without(message, unwanted):
    return b"".join(raw for number, raw, _ in fields(message) if number != unwanted)

def whole(n):
    data = b""
    while len(data) < n:
        data += os.read(0, n - len(data)) or sys.exit(111)
    return data

program = "{program}"
if sys.argv[1:] not in ([], ["--plan"]):
    os.execv(program, [program, *sys.argv[1:]])
message = whole(struct.unpack("<I", whole(4))[0])
if sys.argv[1:]:
    message = without(message, 3)
else:
    boot = without(next(fields(message))[2], 9)
    message = bytes([1 << 3 | 2]) + varint(len(boot)) + boot
read, write = os.pipe()
if os.fork() == 0:
    os.close(read)
    piece = struct.pack("<I", len(message)) + message
    try:
        while piece:
            os.write(write, piece)
            piece = os.read(0, 65536)
    except BrokenPipeError:
        pass
    os._exit(0)
os.close(write)
os.dup2(read, 0)
os.execv(program, [program, *sys.argv[1:]])
"""


def elsewhere(path, kind):
    """A program for `exec`: the stage `kind`, which has nothing of the graph's cache, as if it ran on another host."""
    path.write_text(ELSEWHERE.format(python=sys.executable, kind=kind, program=BIN / f"stage-{kind}", here=pathlib.Path(__file__).resolve().parent))
    path.chmod(0o755)
    return path


class Run:
    """`orchestrator run`, in the background."""

    def __init__(self, graph, *arguments, log=None):
        self.log = open(log or f"{graph}.log", "ab")
        self.process = subprocess.Popen([BIN / "orchestrator", "run", str(graph), *map(str, arguments)], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True)

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def stages(self):
        return stage_pids(self.pid)

    def kill_stage(self, rng, only=None):
        """kill -9 of one stage chosen by rng; its program, or None when there was none."""
        candidates = sorted((program, pid) for pid, program in self.stages().items() if only is None or program == only)
        if not candidates:
            return None
        program, pid = rng.choice(candidates)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return program

    def wait(self, timeout=120):
        try:
            return self.process.wait(timeout * SLOWER)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"still running after {timeout * SLOWER} s; log: {self.log.name}")

    def text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace")


def run(graph, *arguments, timeout=120, expect=0):
    """Run to the end; the text it printed. Fails when the exit code is another than `expect`."""
    finished = subprocess.run([BIN / "orchestrator", "run", str(graph), *map(str, arguments)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout * SLOWER)
    text = finished.stdout.decode(errors="replace")
    assert finished.returncode == expect, f"exit code {finished.returncode}, expected {expect}:\n{text}"
    return text


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds * SLOWER
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def main(tests):
    """Run each function with a folder of its own; the closing line says what passed. memory_*: not under a sanitizer."""
    names = sys.argv[1:]
    failed = 0
    chosen = [test for test in tests if not names or test.__name__ in names]
    for test in [test for test in chosen if SANITIZED and test.__name__.startswith("memory_")]:
        print(f"skipped {test.__name__}: the memory measured would be the sanitizer's", flush=True)
        chosen.remove(test)
    for test in chosen:
        started = time.monotonic()
        try:
            with Folder(test.__name__) as folder:
                test(folder)
            print(f"ok      {test.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED  {test.__name__}: {type(error).__name__}: {error}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)
