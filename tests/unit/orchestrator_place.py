"""What the tests of the orchestrator share: a folder of stages that only pretend (orchestrator_puppet.py), and how tests are run."""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("LT_BIN", HERE.parents[1] / "build" / "bin"))
TESTS = []
FORKING = threading.Lock()  # a program that is being written must not be open in a child of another thread: it could not be run


def test(function):
    TESTS.append(function)
    return function


class Place:
    """A folder with an orchestrator, puppet stages beside it, and whatever a test needs."""

    def __init__(self, name):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"longtake-{name[:24]}-"))
        self.bin = self.path / "bin"
        self.bin.mkdir()
        (self.path / "run").mkdir(mode=0o700)
        with FORKING:
            shutil.copy2(BIN / "orchestrator", self.bin)
            for kind in ("source", "filter", "sink"):
                shutil.copy2(HERE / "orchestrator_puppet.py", self.bin / f"stage-puppet_{kind}")
                (self.bin / f"stage-puppet_{kind}").chmod(0o755)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.path / "run")}

    def write(self, text, name="graph.toml"):
        (self.path / name).write_text(text)
        return self.path / name

    def graph(self, source="", filter="", sink="", graph="", output="out.txt", name="graph.toml"):
        return self.write(
            f'[graph]\n{graph}\n[stage.read]\nkind = "puppet_source"\n{source}\n[stage.work]\nkind = "puppet_filter"\n'
            f'from = "read"\n{filter}\n[stage.write]\nkind = "puppet_sink"\nfrom = "work"\noutput = "{output}"\n{sink}\n', name)

    def start(self, *arguments, **more):
        with FORKING:
            return subprocess.Popen([self.bin / "orchestrator", *map(str, arguments)], cwd=self.path, env=self.environment,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)

    def call(self, *arguments, code=0, timeout=50):
        timeout *= 10 if os.environ.get("LT_SANITIZED") else 1
        process = self.start(*arguments)
        try:
            text = process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{arguments} runs for more than {timeout} s:\n{process.communicate()[0]}")
        assert process.returncode == code, f"{arguments}: exit code {process.returncode}, expected {code}:\n{text}"
        return text

    def start_until(self, units, graph):
        """A run whose sink has that many units."""
        going = self.start("run", graph)
        wait_until(lambda: len(self.made()) >= units)
        return going

    def folder(self, output="out.txt"):
        return self.path / f"{output}.longtake"

    def made(self, stage="write.0", output="out.txt"):
        path = self.folder(output) / f"{stage}.made"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def stages(self):
        """{pid: kind} of the puppets of this place that are alive."""
        found = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            for word in words:
                if word.startswith(f"{self.bin}/stage-"):
                    found[int(entry)] = word.rsplit("-", 1)[1]
        return found

    def kill(self, kind):
        for pid, name in self.stages().items():
            if name == f"puppet_{kind}":
                os.kill(pid, signal.SIGKILL)
                return pid
        return None


def wait_until(condition, seconds=20, what="it"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def has(text, *parts):
    for part in parts:
        assert part in text, f"no {part!r} in:\n{text}"


def same(got, wanted):
    assert got == wanted, f"got:\n{got}\nwanted:\n{wanted}"


def run_one(function):
    place = Place(function.__name__)
    began = time.monotonic()
    try:
        function(place)
    except Exception:
        return f"FAILED  {function.__name__} (left for a look: {place.path}):\n{traceback.format_exc()}"
    finally:
        for pid in place.stages():
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(place.path, ignore_errors=True)
    return f"ok      {function.__name__} ({time.monotonic() - began:.1f} s)"


def main(first=None):
    """Run the tests named on the command line, or all, four at once; `first` is the slowest."""
    chosen = [function for function in TESTS if not sys.argv[1:] or function.__name__ in sys.argv[1:]]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for line in pool.map(run_one, sorted(chosen, key=lambda function: function is not first)):
            failed += line.startswith("FAILED")
            print(line, flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)
