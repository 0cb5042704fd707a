"""The orchestrator runs graphs of stages that only pretend: what it starts, starts again, ends, and tells.

    LT_BIN=build/bin tests/unit/orchestrator_runs_test.py [NAME...]
"""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import time

from orchestrator_place import has, main, same, test, wait_until


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
def another_configuration_is_told_where_it_can_go(place):
    """A run without an output is kept beside its cache: a name of its own keeps another one apart."""
    graph = place.graph(graph='cache = "c"', output="-")
    place.call("run", graph)
    has(place.call("run", graph, "--set", "stage.work.units=11", code=1),
        f"{place.path}/c.longtake holds a run with another configuration", "Use --fresh to start over, or keep this run apart with --set graph.run=NAME")
    place.call("run", graph, "--set", "stage.work.units=11", "--set", "graph.run=other")
    has(place.call("run", graph), "nothing to do")
    graph = place.graph()
    place.call("run", graph)
    has(place.call("run", graph, "--set", "stage.work.units=11", code=1), "Use --fresh to start over, or another output")


@test
def finished_is_what_has_been_written(place):
    """A file that was there before, or an output that is no more, is not this run's."""
    graph = place.graph(output="film-{clip}.txt")
    has(place.call("run", graph), f"{place.path}/film-clip.txt: 80 frames")
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
def a_file_of_somebody_else_stays(place):
    """What no run folder claims is not written over, but with --fresh; an empty file is nobody's loss, and is room that was made."""
    (place.path / "out.txt").write_text("precious")
    graph = place.graph()
    has(place.call("run", graph, code=1), f"{place.path}/out.txt is there already, and no run that is known here has made it: use --fresh to write over it, or another output")
    same((place.path / "out.txt").read_text(), "precious")
    assert not place.folder().exists()
    place.call("run", graph, "--fresh")
    same((place.path / "out.txt").read_text(), "10 units\n")
    has(place.call("run", graph), "nothing to do")
    place.call("run", graph, "--set", "graph.run=other")  # the output's own folder claims it
    graph = place.graph(output="second.txt")
    graph.write_text(graph.read_text().replace("[stage.work]", '[stage.first]\nkind = "puppet_sink"\nfrom = "read"\noutput = "first.txt"\n[stage.work]'))
    place.call("run", graph)
    place.call("run", place.graph(output="second.txt"))  # it was another run's second output
    (place.path / "empty.txt").touch()
    place.call("run", place.graph(output="empty.txt"))


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
def an_output_in_no_folder(place):
    has(place.call("run", place.graph(output="no/folder/out.txt"), code=1), f"there is no folder {place.path}/no/folder to keep out.txt.longtake in: make it")
    assert not (place.path / "no").exists()


@test
def pictures_in_the_current_folder(place):
    """Their run folder stands in it: what is beside it is another's. There is one, by whatever name the output is given."""
    work, outside = place.path / "work", place.path / "work.longtake"
    work.mkdir()
    graph = place.graph(name="work/graph.toml", output="%06d.txt")
    place.call("run", graph)
    assert (work / "pictures.longtake" / "manifest.json").exists() and not outside.exists(), os.listdir(place.path)
    has(place.call("run", graph, "--set", "stage.write.output=work/%06d.txt"), "nothing to do")
    place.call("run", place.graph(output="work/{clip}.txt"))
    graph = place.graph(name="work/graph.toml", output="{clip}.txt")
    place.call("run", graph)
    assert outside.exists() and not (work / "clips.longtake").exists(), os.listdir(work)
    outside.rename(place.path / "elsewhere")
    place.call("run", graph)
    assert (work / "clips.longtake" / "manifest.json").exists() and not outside.exists(), os.listdir(place.path)


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
    going = place.start_until(4, graph)
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
    going = place.start_until(10, graph)
    going.kill()
    going.communicate()
    events = [json.loads(line) for line in place.call("run", graph, "--json").splitlines() if line[0] == "{"]
    speeds = [event["fps"] for event in events if event["event"] == "progress"]
    assert any(speeds) and max(speeds) <= 85, speeds  # 8 frames in 100 ms


@test
def a_changed_input_is_noticed(place):
    (place.path / "in.dat").write_bytes(b"x" * 5)
    graph = place.graph(source='input = "in.dat"', sink="unit_ms = 100")
    going = place.start_until(3, graph)
    going.kill()
    going.communicate()
    (place.path / "in.dat").write_bytes(b"x" * 6)
    has(place.call("run", graph, code=1), 'stage "read" would make other data', "--fresh")
    place.call("run", graph, "--fresh")


@test
def a_second_run_is_refused(place):
    graph = place.graph(sink="unit_ms = 1000\nunits = 60")
    going = place.start_until(1, graph)
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
    going = place.start_until(2, graph)
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
def an_interrupt_tells_what_is_finished(place):
    """Without an output there are no segments: latents are kept."""
    going = place.start("run", place.graph(graph='cache = "c"', output="-", sink="unit_ms = 200"))
    wait_until(lambda: len(place.made(output="c")) >= 1)
    going.send_signal(signal.SIGINT)
    has(going.communicate(timeout=20)[0], "finishing what is being kept, press Ctrl-C again to stop at once")
    same(going.returncode, 130)


@test
def stubborn_stages_do_not_survive(place):
    place.call("run", place.graph(filter="stubborn = true"))
    same(place.stages(), {})


@test
def replicas_of_two_classes_are_refused(place):
    has(place.call("run", place.graph(filter='replicas = 2\nnumeric_class = "class%r"'), code=1),
        "replicas of stage work would give different bytes", "mixed = true")
    place.call("run", place.graph(filter='replicas = 2\nnumeric_class = "class%r"\nmixed = true', output="b.txt"))


if __name__ == "__main__":
    main(first=silence_is_noticed)
