"""The orchestrator alone, with stages that only pretend (orchestrator_puppet.py).

    LT_BIN=build/bin tests/unit/orchestrator_test.py [NAME...]
"""

import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
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


# ---- graphs -------------------------------------------------------------------------------------------------------


@test
def a_long_text_in_a_table_takes_no_time(place):
    """Put together a character at a time it took half a minute and gigabytes."""
    path = place.graph(source='note = { x = "' + "a:" * 100000 + '" }')
    has(place.call("check", path, code=2, timeout=10), "note")


@test
def every_mistake_at_once(place):
    place.write("""[grahp]
x = 1
[graph]
cahce = "c"
transport = "udp"
threads = -1
memory = "lots"
[stage.read]
kind = "puppet_source"
input = 5
unist = 4
units = 0
replicas = 2
[stage.enc]
kind = "puppet_filtre"
from = "read"
[stage.enc2]
kind = "puppet_filter"
from = "raed.frames"
fault = "fire"
host = "elsewhere"
mixed = 1
[stage.write]
kind = "puppet_sink"
from = { frmes = "read" }
output = "out.mp4"
[stage.write2]
kind = "puppet_sink"
from = ["enc2", "read"]
output = "./out.mp4"
[stage."a b"]
exec = "none"
[stage.lost]
replicas = 1.5
""")
    text = place.call("check", "graph.toml", "--set", "stage.read.unit=4", "--set", "x", "--set", "stage.write.units=many",
                      "--set", "stage.raed.units=3", code=2)
    same(text.replace(str(place.path), "HERE"), """\
graph.toml:1:2: unknown key "grahp": a graph has [graph] and [stage.NAME]: did you mean "graph"?
graph.toml:4:1: unknown key "cahce" in [graph]: did you mean "cache"?
graph.toml:5:13: transport = "udp": must be one of auto|tcp
graph.toml:6:11: threads = -1: must be a whole number between 0 and 1024
graph.toml:7:10: memory = "lots": must be a number of bytes such as 4096, 512M or 1.5G
graph.toml:10:9: input is an integer: must be a path
graph.toml:11:1: unknown option "unist" of a puppet_source stage: did you mean "units"?
graph.toml:12:9: units = 0: must lie between 1 and 100000 units
graph.toml:13:12: a puppet_source stage cannot have replicas
graph.toml:15:8: unknown kind "puppet_filtre": did you mean "puppet_filter"?
graph.toml:19:8: there is no stage "raed": did you mean "read"?
graph.toml:20:9: fault = "fire": must be one of none|segv|kill|exit100|exit101|exit111|exit7|failed|garbage|silent
graph.toml:21:8: host = "elsewhere": this version runs all stages on the orchestrator's own host; leave `host` out
graph.toml:22:9: mixed is an integer: must be true or false
graph.toml:25:10: stage "write" has no input "frmes": did you mean "frames"?
graph.toml:29:17: input "frames" of stage "write2" is given twice
graph.toml:30:10: stages "write" and "write2" write one output, HERE/out.mp4
graph.toml:31:8: "a b" cannot name a stage: use up to 64 letters, digits, _ and -
graph.toml:32:8: cannot run HERE/none: No such file or directory
graph.toml:33:8: stage "lost" has no kind
graph.toml:34:12: replicas = 1.5: must be a whole number between 1 and 256
--set stage.raed.units: there is no stage "raed": did you mean "read"?
--set stage.read.unit: unknown option "unit" of a puppet_source stage: did you mean "units"?
--set stage.write.units: units = "many": must be an integer
--set x: must look like stage.NAME.OPTION=VALUE or graph.OPTION=VALUE
""")


@test
def keys_of_very_many_parts_are_refused(place):
    """Each part is a table in a table, which took 20,000 levels of recursion and the stack."""
    key, many = ".".join("abcdefgh"), ".".join(["a"] * 20000)
    for text, where in ((f"[{many}]\n", "1:17"), (f"x = 1\n{many} = 1\n", "2:16"), (f'a."b.c".{many} = 1\n', "1:20"), (f"x = [{{ y = 1, {many} = 1 }}]", "1:30"),
                        (f"x = {{ y = \'\'\'a\n\'\'\'\'\', {many} = 1 }}\n", "2:23"), (f'x = """\\"""\n{many} = 1"""\n{many} = 1', "3:16"),
                        (f"x = 'a\n{many} = 1", "2:16"), ("x = " + ("{ " + ".".join(["a"] * 64) + " = ") * 255, "1:22"), (f"{key}.i = 1", "1:16")):
        place.write(text)
        has(place.call("check", "graph.toml", code=2), f"graph.toml:{where}: a key of more than 8 parts")
    for text in (f"[{key}]\n", f"{key} = 1 # {many}\n", f'x."{many}" = "{many}"\n', f"x = \'\'\'\n{many}\'\'\'\n", "x = [" + "1.5, " * 50 + "]\n", "[a.b.c.d]\n" * 1 + "e.f.g = 1\n"):
        place.write(text)
        assert "more than 8 parts" not in place.call("check", "graph.toml", code=2), text[:80]
    has(place.call("check", place.graph(), "--set", f"stage.read.note={{ {many} = 1 }}", code=2), "note")


@test
def cycles_loose_ends_and_no_sink(place):
    place.write("""[stage.a]
kind = "puppet_filter"
from = "c"
[stage.b]
kind = "puppet_filter"
from = "a"
[stage.c]
kind = "puppet_filter"
from = "b"
""", "cycle.toml")
    same(place.call("check", "cycle.toml", code=2), """\
cycle.toml:6:8: these stages feed each other in a cycle: a -> b -> c -> a
cycle.toml:7:8: the graph has no sink: nothing would be written (a stage of kind "mux" writes video)
""")
    place.write("""[stage.read]
kind = "puppet_source"
[stage.unused]
kind = "puppet_source"
[stage.write]
kind = "puppet_sink"
from = "read"
""", "loose.toml")
    same(place.call("check", "loose.toml", code=2), """\
loose.toml:3:8: nobody uses the output of stage "unused"
loose.toml:5:8: stage "write" needs the option output (file that is written)
""")
    place.write('[stage.write]\nkind = "puppet_sink"\noutput = "x"\n', "fed.toml")
    has(place.call("check", "fed.toml", code=2), 'fed.toml:1:8: stage "write" gets nothing at its input "frames"')
    place.write("", "empty.toml")
    has(place.call("check", "empty.toml", code=2), "empty.toml:1:1: there is no stage")
    place.write('[stage.read\nkind = "x"', "broken.toml")
    has(place.call("check", "broken.toml", code=2), "broken.toml:1:12: Error while parsing table header")


@test
def kinds_must_fit(place):
    script = place.bin / "stage-latents"
    script.write_text("""#!/bin/sh
echo '{"kind":"latents","help":"","replicable":false,"inputs":[],"options":[],"outputs":[{"name":"latents","kinds":["latents"]}]}'
""")
    script.chmod(0o755)
    place.write('[stage.x]\nkind = "latents"\n[stage.write]\nkind = "puppet_sink"\nfrom = "x"\noutput = "o"\n')
    same(place.call("check", "graph.toml", code=2), 'graph.toml:5:8: stage "write" takes frames, but "x.latents" gives latents\n')
    script.write_text("#!/bin/sh\necho nonsense\n")
    has(place.call("check", "graph.toml", code=2), "graph.toml:2:8: ", "stage-latents --describe: is no JSON object")


@test
def values_and_paths(place):
    place.graph(filter="memory = 4096", graph='memory = "2G"\ncache = "latents"')
    has(place.call("check", "graph.toml"), "3 stages, nothing wrong")
    (place.path / "sub").mkdir()
    (place.path / "sub" / "in.dat").write_bytes(b"x" * 7)
    (place.path / "in.dat").write_bytes(b"x" * 5)
    graph = place.graph(source='input = "in.dat"', name="sub/graph.toml")
    manifest = lambda folder: json.loads((place.path / folder / "out.txt.longtake" / "manifest.json").read_text())
    place.call("run", graph)
    same(manifest("sub")["stages"][0]["outputs"][0]["digest"], f"{7:032x}")
    same(manifest("sub")["config"]["stage.read.input"], "in.dat")
    place.call("run", graph, "--set", "stage.read.input=in.dat", "--set", "stage.write.output=out.txt")
    same(manifest(".")["stages"][0]["outputs"][0]["digest"], f"{5:032x}")
    has(place.call("run", "sub/graph.toml", "--set", f"stage.write.output={place.path}/in.dat", "--set", "stage.read.input=in.dat", code=2),
        "--set stage.read.input: the output of stage \"write\" would overwrite")


@test
def usage(place):
    for arguments, part in [((), "what shall be done?"), (("rnu", "x"), 'did you mean "run"?'), (("run",), "needs a graph file"),
                            (("check", "a", "b"), "after"), (("check", "nowhere.toml"), "nowhere.toml: No such file"),
                            (("run", "--sett", "x"), "unknown option --sett"), (("check", "x", "--fresh"), "--fresh belongs to run"),
                            (("describe", "puppet_sinc"), 'did you mean "puppet_sink"?'),
                            (("describe", "xyz"), 'unknown kind "xyz"; there are '), (("fly",), 'unknown command "fly"; there are run, check, plan')]:
        has(place.call(*arguments, code=2), part)
    has(place.call("--help"), "orchestrator run GRAPH", "Exit codes", "clip (one that failed), journal")
    has(place.call("--version"), "longtake ")
    has(place.call("describe", "puppet_sink"), "puppet_sink - Pretends.", "input frames: frames", "output           path; required")
    reference = place.call("reference")
    same(place.call("reference"), reference)
    has(reference, "### `puppet_filter`", "| `units` | integer, 1 to 100000 units | `10` | units of the clip |")


# ---- plans --------------------------------------------------------------------------------------------------------


@test
def plans(place):
    graph = place.graph(filter="gflop = 5000\nreplicas = 2", graph="threads = 8", sink='disk = 1000000')
    text = place.call("plan", graph)
    has(text, "read.frames>work.frames   frames        72.0 KiB      6  shared memory         9.0 KiB         216 KiB", "work: tile", "memory: ")
    line = next(line for line in text.splitlines() if line.startswith("work "))
    assert re.search(r" 2 +4 +10 +50.0 MiB +1.00 +5.00$", line), line
    plan = json.loads(place.call("plan", graph, "--json"))
    work = next(stage for stage in plan["stages"] if stage["name"] == "work")
    unit = 8 * 64 * 48 * 3 + 4096  # bytes of a slot, padded
    same((work["replicas"], work["threads"], work["units"], work["peak_bytes"], work["tflop"]), (2, 4, 10, 50 << 20, 5.0))
    same(work["slab_bytes"], 4 * unit + 6 * unit + 2 * 4096)  # its own slots, those of its producer, two headers
    same([(edge["slots"], edge["bytes_per_frame"], edge["bytes_per_second"]) for edge in plan["edges"]], [(6, 9216, 221184), (8, 9216, 221184)])
    same((plan["live"], plan["devices"]), (False, []))
    has(place.call("plan", graph, "--set", "stage.work.refuse=no such model: nowhere", code=1), "graph.toml:6:8: stage \"work\": no such model: nowhere")
    has(place.call("run", graph, "--set", "stage.write.disk=109951162777600", code=1), "not enough disk space at", "100 TiB needed", "missing")
    assert not place.folder().exists(), "a run that never began leaves a folder"


# ---- runs ---------------------------------------------------------------------------------------------------------


@test
def a_run_named_as_its_output(place):
    """run = "NAME" where the output's folder is called so anyway: one folder, and no quarrel about its lock."""
    place.call("run", place.graph(graph='run = "out.txt"'))
    same(place.made(), list(range(10)))
    assert (place.folder() / "manifest.json").exists()


@test
def runs_once(place):
    graph = place.graph(filter="replicas = 2")
    text = place.call("run", graph)
    has(text, f"{place.path}/out.txt: 80 frames in ")
    same((place.path / "out.txt").read_text(), "10 units\n")
    same(place.made(), list(range(10)))
    report = json.loads((place.folder() / "report.json").read_text())
    same((report["outcome"], report["frames"], report["restarts"], len(report["stages"])), ("finished", 80, 0, 4))
    sink = report["stages"][-1]
    assert sink["units"] == 10 and sink["cpu_seconds"] > 0 and sink["peak_anonymous_bytes"] > 1 << 20, sink
    manifest = json.loads((place.folder() / "manifest.json").read_text())
    assert manifest["finished"] and manifest["stages"][1]["resolved"]["tile"].isdigit(), manifest
    same(os.listdir(place.path / "run"), [])
    has(place.call("run", graph), "finished at", "nothing to do")
    same(place.made(), list(range(10)))
    has(place.call("run", graph, "--set", "stage.work.unit_ms=1", "--set", "graph.threads=1"), "nothing to do")  # cosmetic
    text = place.call("run", graph, "--set", "stage.work.units=11", code=1)
    has(text, 'another configuration: stage.work.units is "11", was "10"', "--fresh")
    has(place.call("run", graph, "--fresh", "--set", "stage.work.refuse=no such model: nowhere", code=1), "no such model: nowhere")
    has(place.call("run", graph), "nothing to do")  # what cannot begin takes nothing away
    place.call("run", graph, "--set", "stage.work.units=11", "--fresh")
    same(place.made(), list(range(10)))
    (place.path / "out.txt").unlink()
    place.call("run", graph, "--set", "stage.work.units=11")
    assert (place.path / "out.txt").exists(), "an output that was removed is made again"


@test
def finished_is_what_has_been_written(place):
    """A file that was there before, or an output that is no more, is not this run's."""
    graph = place.graph(output="film-{clip}.txt")
    place.call("run", graph)
    has(place.call("run", graph), "nothing to do")
    (place.path / "film-clip.txt").unlink()
    place.call("run", graph)
    same((place.path / "film-clip.txt").read_text(), "10 units\n")
    graph = place.graph(graph='run = "r"', output="a.txt")
    place.call("run", graph)
    has(place.call("run", graph), "nothing to do")
    (place.path / "b.txt").write_text("of somebody else")
    place.call("run", graph, "--set", "stage.write.output=b.txt")
    same((place.path / "b.txt").read_text(), "10 units\n")
    # A folder that is moved is the same run; so is one of an earlier build, which recorded outputs as they stand.
    manifest = place.path / "r.longtake" / "manifest.json"
    old = json.loads(manifest.read_text())
    same(old["outputs"], ["b.txt"])
    manifest.write_text(json.dumps({**old, "outputs": [f"{place.path}/b.txt"]}))
    has(place.call("run", graph, "--set", "stage.write.output=b.txt"), "nothing to do")


@test
def one_file_by_several_names(place):
    """".." and links on the way to a file make no other configuration, and no other run folder."""
    (place.path / "sub").mkdir()
    (place.path / "link").symlink_to("sub")
    (place.path / "in.dat").write_bytes(b"x" * 5)
    (place.path / "current.dat").symlink_to("in.dat")
    graph = place.graph(source='input = "../in.dat"', name="sub/graph.toml", graph='cache = "../c"', output="../out.txt")
    place.call("run", graph)
    for name in ("in.dat", "link/../in.dat", "sub/./..//in.dat"):
        has(place.call("run", graph, "--set", f"stage.read.input={name}", "--set", f"graph.cache={place.path}/link/../c"), "nothing to do")
    for name in ("link/../out.txt", "sub/../sub/../out.txt"):
        has(place.call("run", graph, "--set", f"stage.write.output={name}", "--set", f"graph.run={name}"), "nothing to do")
    has(place.call("run", graph, "--set", "stage.read.input=current.dat", code=1), f'stage.read.input is "{place.path}/current.dat", was "{place.path}/in.dat"')


@test
def what_lies_in_a_run_folder_is_not_lost(place):
    graph = place.graph(output="out.txt", graph='cache = "out.txt.longtake/cache"')
    has(place.call("check", graph, code=2), f"graph.toml:2:9: the cache lies in the run folder {place.folder()}, which is emptied")
    for cache in ("x/../out.txt.longtake", "out.txt.longtake/", "r.longtake/a/b"):
        has(place.call("run", graph, "--set", f"graph.cache={cache}", "--set", "graph.run=r", code=2), "--set graph.cache: the cache lies in the run folder")
    place.call("check", graph, "--set", "graph.cache=out.txt.longtake2")


@test
def a_run_folder_that_is_a_link(place):
    place.folder().symlink_to("elsewhere")
    has(place.call("run", place.graph(), code=1, timeout=10), f"{place.folder()} is a link to what is not there")
    (place.path / "elsewhere").mkdir()
    place.call("run", place.graph())
    assert (place.path / "elsewhere" / "manifest.json").exists()
    (place.folder("b.txt")).mkdir()
    (place.folder("b.txt") / "lock").symlink_to("nowhere/lock")
    has(place.call("run", place.graph(output="b.txt"), code=1, timeout=10), "lock is a link to what is not there")


@test
def json_lines(place):
    events = [json.loads(line) for line in place.call("run", place.graph(sink="unit_ms = 150"), "--json").splitlines() if line[0] == "{"]
    names = [event["event"] for event in events]
    assert names.count("start") == 3 and names.count("ready") == 3 and "progress" in names and names[-1] == "end", names
    same((events[-1]["outcome"], events[-1]["exit_code"], events[-1]["frames"]), ("finished", 0, 80))
    progress = next(event for event in events if event["event"] == "progress")
    same([stage["name"] for stage in progress["stages"]], ["read", "work", "write"])


@test
def text_that_is_not_utf8_is_told_all_the_same(place):
    """A file may be called anything, and the last words of a stage may be cut anywhere: no line of JSON is lost for that."""
    name = os.fsdecode(b"caf\xe9.txt")
    options = ("--set", f"stage.write.output={place.path}/{name}", "--json")
    end = json.loads(place.call("run", place.graph(), *options).splitlines()[-1])
    same((end["event"], end["outputs"]), ("end", [f"{place.path}/caf\u00e9.txt"]))
    read = lambda file: json.loads((place.path / f"{name}.longtake" / file).read_text())
    same((read("report.json")["outputs"], read("manifest.json")["outputs"]), ([f"{place.path}/caf\u00e9.txt"], ["caf\u00e9.txt"]))
    end = json.loads(place.call("run", place.graph(), *options).splitlines()[-1])
    has(end["text"], "nothing to do")
    for begin in ("", "x"):
        said = place.call("run", place.graph(output="b.txt"), "--json", "--set", "stage.work.refuse=" + begin + "\u00e9" * 1000, code=1)
        text = json.loads(said.splitlines()[-1])["text"]
        assert set(text.split(": ")[-1]) == {*begin, "\u00e9"} and 400 < text.count("\u00e9") < 1000, text


@test
def killed_stages_are_started_again(place):
    going = place.start("run", place.graph(sink="unit_ms = 100\nunits = 20", filter="replicas = 2"))
    for kind in ("sink", "filter", "source", "sink"):
        made = len(place.made())
        wait_until(lambda: len(place.made()) > made and len(place.stages()) == 4, what="more units")
        assert place.kill(kind)
    text = going.communicate(timeout=30)[0]
    assert going.returncode == 0, text
    has(text, "stage write was killed (signal 9, Killed)", "stage write started again", "4 restarts")
    same(sorted(set(place.made())), list(range(20)))
    peers = (place.folder() / "work.0.peers").read_text().splitlines()
    lines = [line.split()[:3] for line in peers]
    assert ["work.frames>write.frames", "0", "0"] in lines and ["work.frames>write.frames", "0", "3"] in lines, peers
    assert any(re.match(r"read.frames>work.frames 0 2 ipc:///.*", line) for line in peers), peers


@test
def tcp_is_encrypted_and_without_slots(place):
    going = place.start("run", place.graph(graph='transport = "tcp"', sink="unit_ms = 100"))
    wait_until(lambda: len(place.made()) > 2)
    for pid in place.stages():
        assert not any("slab" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")), "a slab over tcp"
    text = going.communicate(timeout=20)[0]
    assert going.returncode == 0, text
    has((place.folder() / "work.0.peers").read_text(), "read.frames>work.frames 0 1 tcp://127.0.0.1:5")


@test
def descriptors_of_a_stage(place):
    """A stage holds the lock and its slots, and nothing else of ours."""
    going = place.start("run", place.graph(sink="unit_ms = 100"))
    wait_until(lambda: len(place.made()) > 2)
    count = {"puppet_source": 1, "puppet_filter": 2, "puppet_sink": 1}
    for pid, kind in place.stages().items():
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        same(sum("longtake-slab" in link for link in links), count[kind])
        same(sum(link.endswith("out.txt.longtake/lock") for link in links), 1)
        assert len(links) <= 5 + count[kind], links
    assert going.wait(20) == 0
    same(place.stages(), {})


@test
def three_crashes_on_one_unit_end_the_run(place):
    for fault, how in [("segv", "signal 11, Segmentation fault"), ("exit101", "exit code 101")]:
        text = place.call("run", place.graph(filter=f'fault = "{fault}"', sink="unit_ms = 500", output=f"{fault}.txt"), code=1)
        has(text, f"stage work crashed 3 times on clip clip, frames 24-31 (unit 3) ({how}); see {place.folder(fault + '.txt')}/logs/work.0.log")
    has((place.folder("exit101.txt") / "logs" / "work.0.log").read_text(), "about to leave")
    same(place.stages(), {})
    text = place.call("run", place.graph(filter='fault = "segv"\ntimes = 2', sink="unit_ms = 400", output="twice.txt"))
    has(text, "2 restarts")


@test
def permanent_failures_end_the_run_at_once(place):
    text = place.call("run", place.graph(filter='fault = "failed"', sink="unit_ms = 500"), code=1)
    has(text, "stage work: the disk is full of sand")
    text = place.call("run", place.graph(filter='fault = "exit100"', sink="unit_ms = 500", output="b.txt"), code=1)
    has(text, "stage work: about to leave with exit100 (see ")


@test
def transient_failures_are_tried_again(place):
    going = place.start("run", place.graph(filter='fault = "exit111"\ntimes = 4\nat = 0', sink="unit_ms = 600"))
    text = going.communicate(timeout=30)[0]
    assert going.returncode == 0, text
    has(text, "stage work ended too early (exit code 111: about to leave with exit111)", "4 restarts")


@test
def a_bad_end_after_all_is_done_is_told(place):
    """What was made stands, and the run is finished; the exit code, the report and the last line tell of it. A kill is nobody's fault."""
    quick, complete = "units = 3\nunit_ms = 1\n", "what was made is complete, but"
    path = place.graph(quick, quick, quick + 'end = "exit7"')
    has(place.call("run", path, code=4), complete, "stage write ended badly after all was done (exit code 7: SUMMARY: 24 bytes leaked); see ")
    report = json.loads((place.folder() / "report.json").read_text())
    same((report["outcome"], report["restarts"], report["bad_ends"]), ("finished", 0, 1))
    has(report["text"], "24 bytes leaked")
    same((place.path / "out.txt").read_text(), "3 units\n")
    has(place.call("run", path), "nothing to do")
    text = place.call("run", "--json", place.graph(quick, quick + 'end = "segv"', quick, output="segv.txt"), code=4)
    end = json.loads(text.splitlines()[-1])
    same((end["event"], end["outcome"], end["exit_code"]), ("end", "finished", 4))
    has(end["text"], "stage work ended badly after all was done (signal 11, Segmentation fault)")
    place.call("run", place.graph(quick, quick, quick + 'end = "kill"', output="kill.txt"))
    # One of two is done before the other: it is told, and the other goes on.
    path = place.graph(quick, quick, quick + 'end = "failed"', output="early.txt")
    path.write_text(path.read_text() + '[stage.late]\nkind = "puppet_sink"\nfrom = "work"\noutput = "late.txt"\nunits = 8\nunit_ms = 50\n')
    has(place.call("run", path, code=4), complete, "stage write ended badly after all was done (exit code 101: the device did not close)")
    same((place.path / "late.txt").read_text(), "8 units\n")


@test
def last_words_are_those_of_today(place):
    """A log is appended to: what another process of the stage once said is no cause of this one's end."""
    text = place.call("run", place.graph(filter='fault = "exit111"\ntimes = 1\nat = 0\nend = "exit8"', sink="unit_ms = 300\nunits = 5"), code=4)
    has(text, "about to leave with exit111", "stage work ended badly after all was done (exit code 8)")
    assert "after all was done (exit code 8; " not in text and "(exit code 8: " not in text, text


@test
def sockets_of_others_stay(place):
    """Who holds a folder's lock uses it, whatever processes there are with its number: they may be in another container."""
    held, left = (place.path / "run" / f"longtake-{number}-abcdef" for number in (4194305, 4194306))
    for folder in (held, left):
        folder.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(str(folder / "0.0.0.1"))
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    going = place.start("run", place.graph(sink="unit_ms = 100"))
    wait_until(lambda: len(place.made()) > 2)
    own = [path for path in (place.path / "run").iterdir() if str(going.pid) in path.name]
    assert len(own) == 1 and held.exists() and not left.exists(), os.listdir(place.path / "run")
    mine = os.open(own[0], os.O_RDONLY)
    try:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise AssertionError("the folder of a run is not locked")
    except BlockingIOError:
        os.close(mine)
    assert going.wait(20) == 0
    same(os.listdir(place.path / "run"), [held.name])
    same(os.listdir(held), ["0.0.0.1"])
    os.close(lock)


@test
def kills_are_no_crashes(place):
    has(place.call("run", place.graph(filter='fault = "kill"\ntimes = 4\nat = 0', sink="unit_ms = 600")), "4 restarts")


@test
def garbage_on_the_control_channel(place):
    text = place.call("run", place.graph(filter='fault = "garbage"\ntimes = 1'))
    has(text, "stage work crashed on clip clip", "it was stuck", "1 restart")


@test
def silence_is_noticed(place):
    text = place.call("run", place.graph(filter='fault = "silent"\ntimes = 1', sink="units = 340\nunit_ms = 100"), timeout=100)
    has(text, "stage work gave no sign of life for 30 s: killed", "1 restart")


@test
def the_orchestrator_is_killed(place):
    graph = place.graph(sink="unit_ms = 100\nunits = 15")
    going = place.start("run", graph)
    wait_until(lambda: len(place.made()) >= 4)
    going.kill()
    wait_until(lambda: not place.stages(), 10, "the stages are gone")
    going.communicate()
    sockets = os.listdir(place.path / "run")
    assert sockets, "the sockets of a killed run"
    tile = json.loads((place.folder() / "manifest.json").read_text())["stages"][0]["resolved"]["tile"]
    text = place.call("run", graph)
    has(text, "continues the run that began at", "out.txt: 120 frames")
    same(sorted(set(place.made())), list(range(15)))
    assert len(place.made()) <= 16, place.made()
    same(json.loads((place.folder() / "manifest.json").read_text())["stages"][0]["resolved"]["tile"], tile)
    same(os.listdir(place.path / "run"), [])


@test
def what_was_there_is_no_speed(place):
    graph = place.graph(sink="unit_ms = 100\nunits = 30")
    going = place.start("run", graph)
    wait_until(lambda: len(place.made()) >= 10)
    going.kill()
    going.communicate()
    events = [json.loads(line) for line in place.call("run", graph, "--json").splitlines() if line[0] == "{"]
    speeds = [event["fps"] for event in events if event["event"] == "progress"]
    assert any(speeds) and max(speeds) <= 85, speeds  # 8 frames in 100 ms


@test
def a_changed_input_is_noticed(place):
    (place.path / "in.dat").write_bytes(b"x" * 5)
    graph = place.graph(source='input = "in.dat"', sink="unit_ms = 100")
    going = place.start("run", graph)
    wait_until(lambda: len(place.made()) >= 3)
    going.kill()
    going.communicate()
    (place.path / "in.dat").write_bytes(b"x" * 6)
    has(place.call("run", graph, code=1), 'stage "read" would make other data', "--fresh")
    place.call("run", graph, "--fresh")


@test
def a_second_run_is_refused(place):
    graph = place.graph(sink="unit_ms = 1000\nunits = 60")
    going = place.start("run", graph)
    wait_until(lambda: len(place.made()) >= 1)
    has(place.call("run", graph, code=1), f"out.txt is being written by another run (pid {going.pid})")
    going.send_signal(signal.SIGINT)
    going.communicate(timeout=20)
    same(going.returncode, 130)


@test
def a_new_run_waits_for_dying_stages(place):
    """A stage that outlives its orchestrator by a second still holds the lock."""
    graph = place.graph(sink="unit_ms = 100")
    place.call("run", graph)
    (place.path / "out.txt").unlink()
    holder = subprocess.Popen(["flock", place.folder() / "lock", "sleep", "1.5"])
    time.sleep(0.3)
    began = time.monotonic()
    place.call("run", graph)
    assert time.monotonic() - began > 1, "the lock was not waited for"
    holder.wait()


@test
def one_interrupt_finishes_two_stop(place):
    graph = place.graph(sink="unit_ms = 400\nunits = 8")
    going = place.start("run", graph)
    wait_until(lambda: len(place.made()) >= 2)
    going.send_signal(signal.SIGINT)
    text = going.communicate(timeout=10)[0]
    assert going.returncode == 130, text
    has(text, "finishing the segment, press Ctrl-C again to stop at once", "the same command continues")
    made = place.made()
    same(made, list(range(len(made))))
    going = place.start("run", graph, "--set", "stage.write.unit_ms=20000")
    wait_until(lambda: len(place.stages()) == 3)
    time.sleep(0.5)
    going.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert going.poll() is None, "one interrupt does not stop what is being written"
    going.send_signal(signal.SIGTERM)
    began = time.monotonic()
    text = going.communicate(timeout=10)[0]
    assert going.returncode == 130 and time.monotonic() - began < 5, text
    same(place.stages(), {})
    place.call("run", graph)
    same(place.made(), list(range(8)))


@test
def stubborn_stages_do_not_survive(place):
    place.call("run", place.graph(filter="stubborn = true"))
    same(place.stages(), {})


@test
def replicas_of_two_classes_are_refused(place):
    has(place.call("run", place.graph(filter='replicas = 2\nnumeric_class = "class%r"'), code=1),
        "replicas of stage work would give different bytes", "mixed = true")
    place.call("run", place.graph(filter='replicas = 2\nnumeric_class = "class%r"\nmixed = true', output="b.txt"))


# ---- the real runtime, with stages that do nothing but what can be checked ----------------------------------------


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
def a_unit_that_crashes_is_named(place):
    null = Null(place)
    if not null.is_there:
        return
    text = place.call("run", null.graph("crash", sleep=0, work="crash_unit = 7"), code=1)
    has(text, "stage work crashed 3 times on clip clip0, frames 14-16 (unit 7) (signal 6, Aborted); see ")
    has(place.call("run", null.graph("fail", sleep=0, work="fail_unit = 7"), code=1), "stage work: unit 7")


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


if __name__ == "__main__":
    chosen = [function for function in TESTS if not sys.argv[1:] or function.__name__ in sys.argv[1:]]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        # The slowest first.
        for line in pool.map(run_one, sorted(chosen, key=lambda function: function is not silence_is_noticed)):
            failed += line.startswith("FAILED")
            print(line, flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)
