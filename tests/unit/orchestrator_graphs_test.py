"""The orchestrator reads graphs and plans: what it refuses, in which words, and what it says.

    LT_BIN=build/bin tests/unit/orchestrator_graphs_test.py [NAME...]
"""

import json
import re

from orchestrator_place import BIN, has, main, same, test


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
def a_value_of_another_type(place):
    """What could stand there, as one would write it."""
    for line, wanted in (("size = 128", 'size is an integer: must be text such as "1024x576"'), ("memory = 1.5", "must be a number of bytes such as 4096, 512M or 1.5G"),
                         ("gflop = true", "must be a number"), ("tile = 5", "must be text"), ("codec_options = 5", "must be text or a table")):
        has(place.call("check", place.graph(filter=line), code=2), wanted)


@test
def options_that_do_not_go_together(place):
    """A stage is asked about its options: what it says is one more mistake of the file."""
    graph = place.graph(graph='cahce = "c"', filter='contradiction = "8 with 12"', sink="units = 0")
    for verb in ("check", "plan", "run"):
        has(place.call(verb, graph, code=2), 'graph.toml:2:1: unknown key "cahce"', 'graph.toml:6:8: stage "work": 8 with 12', "units = 0: must lie between")
    place.call("check", place.graph())


@test
def real_stages_see_what_needs_no_input(place):
    real = [BIN / f"stage-{kind}" for kind in ("decode", "vae_encode", "vae_decode", "mux")]
    if not all(path.exists() for path in real):
        print("skipped: the stages are not built: 1 case")
        return
    place.write(f"""[stage.read]
exec = "{real[0].resolve()}"
manifest = "nowhere.json"
shard = "2/2"
[stage.enc]
exec = "{real[1].resolve()}"
from = "read"
model = "nowhere"
[stage.dec]
exec = "{real[2].resolve()}"
from = "enc"
model = "nowhere"
window = 8
stride = 12
[stage.write]
exec = "{real[3].resolve()}"
from = "dec"
output = "out.xyz"
[stage.write2]
exec = "{real[3].resolve()}"
from = "dec"
output = "{{clip}}.mp4"
codec = "libx246"
""")
    same(place.call("check", "graph.toml", code=2).replace(f"{place.path}/", ""), """\
graph.toml:1:8: stage "read": shard = "2/2": must be "i/n" with i from 0 to n - 1
graph.toml:9:8: stage "dec": window 8 with stride 12: the stride is at most the window
graph.toml:15:8: stage "write": output = "out.xyz": its ending names no format FFmpeg writes; use .mp4, .mkv, .mov or .webm
graph.toml:19:8: stage "write2": codec = "libx246": this FFmpeg has no such video encoder; did you mean "libx264"?
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
    for verb in ("plan", "run"):
        has(place.call(verb, graph, "--set", "stage.work.refuse=13 is no multiple", "--set", "stage.work.refuse_status=3", code=2), "13 is no multiple")
    has(place.call("run", graph, "--set", "stage.write.disk=109951162777600", code=1), "not enough disk space at", "100 TiB needed", "missing")
    assert not place.folder().exists(), "a run that never began leaves a folder"


if __name__ == "__main__":
    main()
