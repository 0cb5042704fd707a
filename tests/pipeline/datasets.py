"""Data sets: manifests of clips to latents in a cache, and out of it again.

    tests/pipeline/datasets.py [NAME...]
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, MODEL, ROOT, Run, elsewhere, main, narrow_model, need_model, run, sha256, wait_until, write_graph  # noqa: E402
from roundtrip import ffmpeg, probe, timestamps  # noqa: E402


def precompute(path, manifest, cache, model=MODEL, read="", encode="", graph="", replicas=1):
    pathlib.Path(path).write_text(f"""
[graph]
cache = "{cache}"
{graph}
[stage.read]
kind = "decode"
manifest = "{manifest}"
{read}
[stage.vae_encode]
kind = "vae_encode"
from = "read"
model = "{model}"
replicas = {replicas}
{encode}
[stage.keep]
kind = "store"
from = "vae_encode"
""")
    return path


def decode(path, cache, output, model=MODEL, clips="*", decode="", write=""):
    pathlib.Path(path).write_text(f"""
[graph]
cache = "{cache}"
[stage.read]
kind = "latents"
clips = "{clips}"
[stage.vae_decode]
kind = "vae_decode"
from = "read"
model = "{model}"
{decode}
[stage.write]
kind = "mux"
from = "vae_decode"
output = "{output}"
{write}
""")
    return path


def latents(*arguments, check=True):
    finished = subprocess.run([BIN / "latents", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = finished.stdout.decode()
    assert finished.returncode == 0 or not check, text
    return text


def clips_of(cache):
    """What latents ls says of each clip, but when it was completed."""
    clips = [json.loads(line) for line in latents("ls", cache, "--json").splitlines()]
    return {clip["clip"]: {name: value for name, value in clip.items() if name != "completed_ms"} for clip in clips}


def values_of(cache):
    """The chunks' values as they lie in the cache's file: safetensors files."""
    raw, found, at = (pathlib.Path(cache) / "data.mdb").read_bytes(), set(), 0
    while (at := raw.find(b'{"__metadata__"', at + 1)) >= 0:
        length = int.from_bytes(raw[at - 8 : at], "little")
        header = json.loads(raw[at : at + length])
        end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        found.add(raw[at - 8 : at + length + end])
    return found


def journal(cache):
    return [json.loads(line) for line in (pathlib.Path(f"{cache}.longtake") / "clips.jsonl").read_text().splitlines()]


def make_clip(path, seconds=1, size="64x48", rate=24, audio=False, source="testsrc2"):
    sound = ["-f", "lavfi", "-i", f"sine=duration={seconds}"] if audio else []
    ffmpeg("-f", "lavfi", "-i", f"{source}=size={size}:rate={rate}:duration={seconds}", *sound, "-c:v", "libx264", "-preset", "ultrafast", path)


def from_manifest_to_latents_to_videos(folder):
    """Three clips of different sizes and lengths, one with sound: into the cache, and decoded later as if in one run."""
    for name, seconds, size, audio in (("a", 1, "64x48", False), ("b", 0.5, "48x64", True), ("c", 0.3, "80x40", False)):
        make_clip(folder / f"{name}.mp4", seconds, size, audio=audio)
    manifest = folder / "clips.json"
    manifest.write_text(json.dumps([{"path": f"{name}.mp4", "text": f"clip {name}"} for name in "abc"]))
    cache = folder / "cache"
    run(precompute(folder / "p.toml", manifest, cache))
    there = clips_of(cache)
    assert {name: clip["frames"] for name, clip in there.items()} == {"a": 24, "b": 12, "c": 8}, there
    assert all(clip["state"] == "complete" for clip in there.values())
    latents("verify", cache)
    run(decode(folder / "d.toml", cache, folder / "out" / "{clip}.mp4"))
    for name, size in (("a", (64, 48)), ("b", (48, 64)), ("c", (80, 40))):
        output = folder / "out" / f"{name}.mp4"
        stream = probe(output, "stream=width,height")["streams"][0]
        assert (stream["width"], stream["height"]) == size, (name, stream)
        assert timestamps(output) == timestamps(folder / f"{name}.mp4"), name
        run(write_graph(folder / f"{name}.toml", folder / f"{name}.mp4", folder / f"{name}-direct.mp4"))
        assert sha256(output) == sha256(folder / f"{name}-direct.mp4"), f"{name}: other bytes than in one run"
    assert probe(folder / "out" / "b.mp4", "stream=codec_name", "a:0")["streams"], "the sound is gone"


def failing_clips_cost_themselves(folder):
    """A missing file, a damaged one and one that is no video: the others are made, failed.json lists them, and is a manifest."""
    make_clip(folder / "good.mp4", 0.5)
    make_clip(folder / "late.mp4", 0.5, source="testsrc")
    whole = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "text.mp4").write_text("this is no video")
    entries = [{"path": name, "text": f"it is {name}"} for name in ("gone.mp4", "good.mp4", "cut.mp4", "text.mp4", "late.mp4")]
    (folder / "clips.json").write_text(json.dumps(entries))
    cache, model = folder / "cache", narrow_model(folder / "model")
    graph = precompute(folder / "p.toml", folder / "clips.json", cache, model)
    text = run(graph, expect=3)
    assert "3 failed" in text, text
    states = {name: clip["state"] for name, clip in clips_of(cache).items() if clip["state"] == "complete"}
    assert sorted(states) == ["good", "late"], states
    failed = json.loads((folder / "cache.longtake" / "failed.json").read_text())
    assert [pathlib.Path(entry["path"]).name for entry in failed] == ["gone.mp4", "cut.mp4", "text.mp4"], failed
    assert all(entry["error"] for entry in failed) and failed[1]["text"] == "it is cut.mp4", failed
    report = json.loads((folder / "cache.longtake" / "report.json").read_text())
    assert (report["clips_done"], report["clips_failed"]) == (2, 3), report

    # Two are repaired: the same command computes those, and the list of failures is a manifest for another run.
    (folder / "cut.mp4").write_bytes(whole)
    (folder / "gone.mp4").write_bytes(whole)
    run(graph, expect=3)
    assert json.loads((folder / "cache.longtake" / "report.json").read_text())["clips_done"] == 2
    other = folder / "other"
    run(precompute(folder / "q.toml", folder / "cache.longtake" / "failed.json", other, model), expect=1)
    (folder / "text.mp4").write_bytes(whole)
    run(graph)
    assert not (folder / "cache.longtake" / "failed.json").exists()
    run(precompute(folder / "r.toml", folder / "clips.json", other, model))
    assert {name: clip["digest"] for name, clip in clips_of(cache).items()} == {name: clip["digest"] for name, clip in clips_of(other).items()}


def outputs_do_not_meet(folder):
    """Clips of one name get files of their own, two outputs of one stem folders of their own; what would be written over is named."""
    def graph(name, read, one, two=None):
        sinks = "".join(f'[stage.{stage}]\nkind = "mux"\nfrom = "read"\noutput = "{output}"\ncodec = "mpeg4"\n' for stage, output in (("one", one), ("two", two)) if output)
        (folder / name).write_text(f'[stage.read]\nkind = "decode"\n{read}\n{sinks}')
        return folder / name

    for place in "ab":
        (folder / place).mkdir()
        make_clip(folder / place / "x.mp4", 0.25, source="testsrc" if place == "b" else "testsrc2")
    hashes = {place: sha256(folder / place / "x.mp4") for place in "ab"}
    (folder / "clips.json").write_text('[{"path": "a/x.mp4"}, {"path": "b/x.mp4"}]')
    both = graph("both.toml", 'manifest = "clips.json"', "out/{clip}.mp4", "out/{clip}.mkv")
    assert "2 clips done" in run(both)
    films = sorted((folder / "out").iterdir())
    assert len(films) == 4 and len({film.stem for film in films}) == 2 and {film.suffix for film in films} == {".mp4", ".mkv"}, films
    assert len({sha256(film) for film in films}) == 4
    assert (folder / "out.longtake" / "manifest.json").exists() and (folder / "out.two.longtake").is_dir()
    assert "0 clips done, 2 there already" in run(both)
    # {clip} may be a name that another output has already, or the source's own.
    said = plan(graph("same.toml", 'input = "a/x.mp4"', "out/{clip}.mp4", "out/x.mp4"), expect=2)
    assert 'stage "two": stage "one" writes' in said and "out/x.mp4, too" in said, said
    for read in ('input = "a/x.mp4"', 'manifest = "clips.json"'):
        said = run(graph("over.toml", read, "a/{clip}.mp4"), "--fresh", expect=2)
        assert "would be written over: choose another output" in said, said
    assert hashes == {place: sha256(folder / place / "x.mp4") for place in "ab"}, "a source was written over"


def bytes_that_are_no_text_cost_nothing(folder):
    """A folder whose name is not UTF-8, a caption with a control character, an entry longer than a message takes: clips that can be had are
    made, others are listed with their reason."""
    place = folder / os.fsdecode(b"caf\xe9")
    place.mkdir()
    model = narrow_model(folder / "model")
    make_clip(place / "a.mp4", 0.25)
    (place / "bad.mp4").write_text("this is no video")
    entries = [{"path": "a.mp4", "text": "del \x7f"}, {"path": "bad.mp4", "text": "\x7f, too"}, {"path": "gone\x7f.mp4"}]
    (place / "clips.json").write_text(json.dumps(entries, ensure_ascii=False))
    # As a message holds it, the entry's many line ends take more than the mebibyte that the file has.
    with open(place / "clips.csv", "w") as file:
        file.write('path,text,more\na.mp4,plain,"' + "\n" * 900000 + '"\n')
    graph = precompute(place / "p.toml", "clips.json", "cache", model)
    assert "2 failed" in run(graph, expect=3, timeout=60)
    assert [(clip, about["state"]) for clip, about in clips_of(place / "cache").items() if about["state"] == "complete"] == [("a", "complete")]
    failed = json.loads((place / "cache.longtake" / "failed.json").read_text())
    assert [entry["path"] for entry in failed] == ["bad.mp4", "gone\x7f.mp4"] and failed[0]["text"] == "\x7f, too", failed
    assert all("caf?" in entry["error"] for entry in failed), failed
    assert "1 clips done" in run(precompute(place / "q.toml", "clips.csv", "other", model), timeout=60)


def every_sink_of_a_data_set_has_a_say(folder):
    """Of two sinks on one source the failure of one counts, whoever ends last; other chains and other data sets of the graph have no part in it."""
    def graph(name, *chains):
        (folder / name).write_text("".join(f'[stage.{stage}]\nkind = "{"decode" if at == 0 else "mux"}"\n{text}\n' for chain in chains for at, (stage, text) in enumerate(chain)))
        return folder / name

    def sink(stage, source, output):
        return stage, f'from = "{source}"\noutput = "{output}"'

    def entries(name, wrong):
        (folder / f"{name}.json").write_text(json.dumps([{"path": f"lavfi:testsrc2=size=32x32:rate=24,trim=end_frame={8 if i in wrong else 1}", "name": f"{name}{i:02d}"} for i in range(34)]
                                                        + [{"path": f"{name}-gone.mp4"}]))
        return f'manifest = "{name}.json"'

    def failed(run_folder):
        path = folder / f"{run_folder}.longtake" / "failed.json"
        return sorted(entry.get("name", entry["path"].rsplit("/", 1)[-1]) for entry in json.loads(path.read_text())) if path.exists() else None

    film = [("film", 'input = "lavfi:testsrc2=size=32x32:rate=24:duration=1"'), sink("film_out", "film", "film.mp4")]
    two = graph("two.toml", [("read", entries("a", ())), sink("out", "read", "out/{clip}.mp4")], film)
    assert "34 clips done, 1 failed" in run(two, expect=3) and failed("out") == ["a-gone.mp4"], failed("out")
    # A picture cannot hold clip 1, which the plan does not look at; the film can.
    for name, outputs in (("first", ("p1/{clip}.png", "f1/{clip}.mp4")), ("second", ("f2/{clip}.mp4", "p2/{clip}.png"))):
        both = graph(f"{name}.toml", [("read", entries("b", (1,))), sink("one", "read", outputs[0]), sink("two", "read", outputs[1])], film)
        assert "33 clips done, 2 failed" in run(both, expect=3), name
        assert failed(outputs[0].split("/")[0]) == ["b-gone.mp4", "b01"], name
    sets = graph("sets.toml", [("read", entries("c", ())), sink("one", "read", "c/{clip}.mp4")], [("more", entries("d", ())), sink("two", "more", "d/{clip}.mp4"), sink("three", "more", "d/{clip}.mkv")])
    said = run(sets, expect=3)
    assert "68 clips done, 2 failed" in said and "there already" not in said, said
    assert failed("c") == ["c-gone.mp4", "d-gone.mp4"] and len(list((folder / "d").iterdir())) == 68
    report = json.loads((folder / "c.longtake" / "report.json").read_text())
    assert report["frames"] == 34 + 2 * 34, report


def a_finished_data_set_is_looked_at_again(folder):
    """What has become of its manifest is said: there may be clips in it that nobody has made."""
    manifest = folder / "list.jsonl"
    manifest.write_text('{"path": "lavfi:testsrc2=size=32x32:rate=24,trim=end_frame=2", "name": "a"}\n')
    graph = folder / "g.toml"
    graph.write_text(f'[stage.read]\nkind = "decode"\nmanifest = "{manifest}"\n[stage.write]\nkind = "mux"\nfrom = "read"\noutput = "out/{{clip}}.mp4"\n')
    assert "1 clips done" in run(graph) and "0 clips done, 1 there already" in run(graph)
    end = json.loads(run(graph, "--json").splitlines()[-1])
    assert (end["clips_done"], end["clips_there"]) == (0, 1), end
    manifest.write_text(manifest.read_text() + '{"path": 3}\n')
    assert "list.jsonl:2: " in run(graph, expect=1)
    manifest.unlink()
    assert "list.jsonl: No such file" in run(graph, expect=1)


def failed_clips_are_told_before_a_bad_end(folder):
    """Both: what is missing matters more to a script than how a process left."""
    (folder / "mux").write_text(f'#!/bin/sh\n{BIN}/stage-mux "$@" || exit\ntest $# -gt 0 || exit 7\n')
    (folder / "mux").chmod(0o755)
    (folder / "list.jsonl").write_text('{"path": "lavfi:testsrc2=size=32x32:rate=24,trim=end_frame=2", "name": "a"}\n{"path": "gone.mp4"}\n')
    graph = folder / "g.toml"
    graph.write_text('[stage.read]\nkind = "decode"\nmanifest = "list.jsonl"\n[stage.write]\nexec = "mux"\nfrom = "read"\noutput = "out/{clip}.mp4"\n')
    said = run(graph, expect=3)
    assert "1 clips done, 1 failed" in said and "what was made stands, but stage write ended badly" in said, said
    report = json.loads((folder / "out.longtake" / "report.json").read_text())
    assert (report["clips_failed"], report["bad_ends"]) == (1, 1), report
    (folder / "list.jsonl").write_text('{"path": "lavfi:testsrc2=size=32x32:rate=24,trim=end_frame=2", "name": "a"}\n')
    assert "what was made is complete, but" in run(graph, expect=4)


def a_clip_is_not_written_over_another(folder):
    """What is made of one clip may be called as what another is made from: the plan says so, before anything is written."""
    for place in "ab":
        (folder / place).mkdir()
        make_clip(folder / place / "x.mp4", 0.25, source="testsrc" if place == "b" else "testsrc2")
    (folder / "list.jsonl").write_text('{"path": "a/x.mp4", "name": "x"}\n{"path": "b/x.mp4", "name": "y"}\n')
    before = {place: sha256(folder / place / "x.mp4") for place in "ab"}
    graph = folder / "g.toml"
    graph.write_text('[stage.read]\nkind = "decode"\nmanifest = "list.jsonl"\n[stage.write]\nkind = "mux"\nfrom = "read"\noutput = "b/{clip}.mp4"\n')
    said = run(graph, expect=2)
    assert "list.jsonl:1: what is made of this clip is " in said and "of line 2 is made from would be written over: choose another output" in said, said
    assert before == {place: sha256(folder / place / "x.mp4") for place in "ab"}
    assert "2 clips done" in run(graph, "--set", "stage.write.output=" + str(folder / "b" / "{clip}.mkv"))


def a_list_of_failures_is_a_manifest_in_its_own_run(folder):
    """failed.json named as the manifest of the run that wrote it: --fresh empties the folder around it, and it lists what fails again."""
    model, cache, failed = narrow_model(folder / "model"), folder / "cache", folder / "cache.longtake" / "failed.json"
    make_clip(folder / "a.mp4", 0.25)
    (folder / "clips.json").write_text(json.dumps([{"path": f"{name}.mp4"} for name in "abc"]))
    graph = precompute(folder / "p.toml", folder / "clips.json", cache, model)
    run(graph, expect=3)
    again = ["--set", f"stage.read.manifest={failed}"]
    assert "Use --fresh" in run(graph, *again, expect=1)
    make_clip(folder / "b.mp4", 0.25)
    said = run(graph, *again, "--fresh", expect=3)
    assert f"{failed} stays, since the run reads it" in said and "1 clips done" in said and "1 failed" in said, said
    assert [pathlib.Path(entry["path"]).name for entry in json.loads(failed.read_text())] == ["c.mp4"]
    make_clip(folder / "c.mp4", 0.25)
    assert "1 clips done" in run(graph, *again) and "0 clips done, 1 there already" in run(graph, *again)
    assert sorted(clips_of(cache)) == ["a", "b", "c"]
    deep = folder / "cache.longtake" / "logs" / "clips.json"
    deep.write_text((folder / "clips.json").read_text())
    said = run(graph, "--set", f"stage.read.manifest={deep}", "--set", f"stage.read.base={folder}", "--fresh", expect=2)
    assert "lies in the run's own folder" in said and deep.exists(), said


def only_what_is_new_is_computed(folder):
    """Clips added to the manifest later, clips taken out of the cache, clips whose file has changed."""
    for name in "abc":
        make_clip(folder / f"{name}.mp4", 0.5, source="testsrc" if name == "b" else "testsrc2")
    manifest, cache, model = folder / "clips.jsonl", folder / "cache", narrow_model(folder / "model")
    manifest.write_text('{"path": "a.mp4"}\n{"path": "b.mp4"}\n')
    graph = precompute(folder / "p.toml", manifest, cache, model)
    assert "2 clips done" in run(graph)
    assert "0 clips done, 2 there already" in run(graph)
    manifest.write_text('{"path": "c.mp4", "text": "new"}\n' + manifest.read_text())
    assert "1 clips done, 2 there already" in run(graph)
    assert sorted(clips_of(cache)) == ["a", "b", "c"]
    # Another caption is another caption in the cache, and no latent is made for it.
    before = json.loads(latents("stat", cache, "--json"))
    manifest.write_text(manifest.read_text().replace('"new"', '"newer"'))
    assert "1 clips done" in run(graph)
    latents("export", cache, "c", folder / "c.safetensors")
    assert '"caption":"newer"' in (folder / "c.safetensors").read_bytes()[8:4096].decode(errors="replace")
    assert json.loads(latents("stat", cache, "--json"))["chunks"] == before["chunks"]
    latents("rm", cache, "b")
    assert sorted(clips_of(cache)) == ["a", "c"]
    latents("verify", cache)
    assert "1 clips done" in run(graph)
    make_clip(folder / "a.mp4", 0.3)
    assert "1 clips done" in run(graph)
    assert len(latents("ls", cache).splitlines()) == 4, "the clip of the changed file should stand beside the old one"
    # Another run on the same cache: its journal knows nothing, the cache everything, so no chunk is written.
    before = json.loads(latents("stat", cache, "--json"))["chunks"]
    run(graph, "--fresh")
    assert json.loads(latents("stat", cache, "--json"))["chunks"] == before
    # What is all in the cache is not even opened: a file that is damaged without a trace does not matter, until it is needed.
    about = os.stat(folder / "c.mp4")
    (folder / "c.mp4").write_bytes(bytes(about.st_size))
    os.utime(folder / "c.mp4", ns=(about.st_atime_ns, about.st_mtime_ns))
    assert "3 clips done" in run(graph, "--fresh")
    latents("rm", cache, "c")
    assert "1 failed" in run(graph, expect=3)


def manifests_say_what_is_taken(folder):
    """CSV with quotes, parts of a file by their seconds, a base folder, shards, size buckets, rules for short clips."""
    (folder / "videos").mkdir()
    make_clip(folder / "videos" / "wide.mp4", 2, "96x48")
    make_clip(folder / "videos" / "tall, thin.mp4", 0.25, "48x96")
    manifest, model = folder / "clips.csv", narrow_model(folder / "model")
    manifest.write_text('path,start,end,text,score\r\nwide.mp4,0.5,1,"a ""wide"" one, cut",3\r\n"tall, thin.mp4",,,thin,\r\nwide.mp4,1,,the rest,\r\n')
    read = f'base = "{folder}/videos"\nbuckets = "64x32, 32x64"\nframes = 8\n'
    cache = folder / "cache"
    run(precompute(folder / "pad.toml", manifest, cache, model, read + 'short = "pad"'))
    there = clips_of(cache)
    names = sorted(there)
    assert names[0] == "tall--thin" and names[1] == "wide" and names[2].startswith("wide-"), names
    assert all(clip["frames"] == 8 for clip in there.values()), there
    assert (there["tall--thin"]["width"], there["tall--thin"]["height"]) == (4, 8), there["tall--thin"]
    assert (there["wide"]["width"], there["wide"]["height"]) == (8, 4), there["wide"]
    latents("export", cache, "wide", folder / "wide.safetensors")
    header = (folder / "wide.safetensors").read_bytes()[8:4096].decode(errors="replace")
    assert 'a \\"wide\\" one, cut' in header, header
    text = run(precompute(folder / "skip.toml", manifest, folder / "skip", model, read + 'short = "skip"'))
    assert "2 clips done, 1 passed over" in text, text
    run(precompute(folder / "keep.toml", manifest, folder / "keep", model, read.replace("frames = 8", "frames = 100")))
    assert {name: clip["frames"] for name, clip in clips_of(folder / "keep").items() if name in ("wide", "tall--thin")} == {"wide": 12, "tall--thin": 6}
    shards = []
    for i in range(2):
        shard = folder / f"shard{i}"
        run(precompute(folder / f"s{i}.toml", manifest, shard, model, read + f'short = "pad"\nshard = "{i}/2"'))
        shards.append(set(clips_of(shard)))
        latents("copy", shard, folder / "merged")
    assert len(shards[0]) == 2 and len(shards[1]) == 1 and not shards[0] & shards[1], shards
    merged = clips_of(folder / "merged")
    assert {name: clip["digest"] for name, clip in merged.items()} == {name: clip["digest"] for name, clip in there.items()}, "shards give what one run gives"
    latents("verify", folder / "merged")
    assert "0 clips, 0 chunks" in latents("copy", folder / "shard0", folder / "merged")


def wrong_manifests_are_told_where(folder):
    """Hostile and careless files: an error with file and line, before anything runs."""
    model = narrow_model(folder / "model")
    for name, text, wanted in (
        ("a.json", '[{"path": "x.mp4"},\n {"text": "no path"}]', "a.json:2: this entry has no path"),
        ("b.json", '[{"path": "x.mp4"}\n {"path": "y.mp4"}]', "b.json:2: a comma is missing"),
        ("c.json", '[{"path": "x.mp4"}', "c.json:1: the list does not end"),
        ("d.jsonl", '{"path": "x.mp4"}\n{"path": 3, }\n', "d.jsonl:2:"),
        ("e.csv", "file,text\nx.mp4,y\n", "e.csv:1: no column is called path"),
        ("f.csv", 'path,text\nx.mp4,"y\n', "f.csv:2: a field is malformed"),
        ("g.jsonl", '{"path": "x.mp4", "start": 3, "end": 2}\n', "g.jsonl:1: its end is not behind its start"),
        ("h.jsonl", '{"path": "x.mp4"}\n\n{"path": "x.mp4"}\n', "h.jsonl:3: this entry repeats"),
        ("i.jsonl", '{"path": "x.mp4", "name": "../../etc"}\n', "i.jsonl:1: name must be"),
        ("j.jsonl", "", "holds no clips"),
        ("k.json", "[" * 100000, "k.json:1: here should stand an entry"),
        ("l.jsonl", '{"path": "x.mp4", "start": "soon"}\n', "l.jsonl:1: start must be seconds"),
    ):
        (folder / name).write_text(text)
        said = run(precompute(folder / "g.toml", folder / name, folder / "cache", model), expect=1)
        assert wanted in said, f"{name}: {said}"
    assert not (folder / "cache").exists()


def latents_come_and_go(folder):
    """Import of what was exported, and of files without metadata; copies; what gc takes."""
    make_clip(folder / "all.mp4", 0.75)
    ffmpeg("-i", folder / "all.mp4", "-vf", "select='not(eq(mod(n,3),1))'", "-fps_mode", "vfr", "-c:v", "libx264", folder / "a.mp4")
    (folder / "clips.json").write_text('[{"path": "a.mp4", "text": "a test"}]')
    cache, model = folder / "cache", narrow_model(folder / "model")
    run(precompute(folder / "p.toml", folder / "clips.json", cache, model, encode="logvar = true"))
    assert clips_of(cache)["a"]["logvar"]
    (folder / "files").mkdir()
    latents("export", cache, "a", folder / "files" / "x.safetensors")
    header = json.dumps({"z": {"dtype": "F32", "shape": [4, 2, 3], "data_offsets": [0, 96]}}).encode()
    (folder / "files" / "picture.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(96))
    (folder / "files" / "broken.safetensors").write_bytes(b"\xff" * 100)
    other = folder / "other"
    said = latents("import", other, folder / "files", check=False)
    assert "broken.safetensors" in said and "the first is z" in said and "--tensor NAME" in said, said
    assert sorted(clips_of(other)) == ["a"], said
    latents("import", other, folder / "files", "--tensor", "z", check=False)
    there = clips_of(other)
    assert sorted(there) == ["a", "picture"] and there["picture"]["frames"] == 1, there
    assert there["a"]["digest"] == clips_of(cache)["a"]["digest"] and there["a"]["logvar"]
    latents("export", other, "a", folder / "again.safetensors")
    assert (folder / "again.safetensors").read_bytes()[-1000:] == (folder / "files" / "x.safetensors").read_bytes()[-1000:]
    run(decode(folder / "d.toml", other, folder / "out" / "{clip}.mp4", model, clips="a"))
    assert timestamps(folder / "out" / "a.mp4") == timestamps(folder / "a.mp4"), "an import has lost the timestamps"
    latents("verify", other)
    assert "0 clips" in latents("gc", other)


def a_clip_that_cannot_be_right_costs_itself(folder):
    """A record with a caption no stream takes (an earlier import's), of the largest clip: it is named, the others are decoded."""
    for name, seconds in (("a", 0.25), ("b", 0.75), ("c", 0.3)):
        make_clip(folder / f"{name}.mp4", seconds)
    (folder / "clips.json").write_text(json.dumps([{"path": f"{name}.mp4", "text": f"{name}" * 12} for name in "abc"]))
    cache, model = folder / "cache", narrow_model(folder / "model")
    run(precompute(folder / "p.toml", folder / "clips.json", cache, model))
    data = cache / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b'"caption":"bbbbbbbbbbbb"', b'"caption":"\\u0001bbbbbb"'))
    graph = decode(folder / "d.toml", cache, folder / "out" / "{clip}.mp4", model)
    said = plan(graph)
    assert f"clip b/{clips_of(cache)['b']['digest']} of the cache: a stream's caption cannot be what it says" in said and "3 clips" in said, said
    said = run(graph, expect=3)
    assert "1 failed" in said and sorted(path.name for path in (folder / "out").glob("*.mp4")) == ["a.mp4", "c.mp4"], said
    said = run(decode(folder / "one.toml", cache, folder / "one.mp4", model, clips="b"), expect=1)
    assert "clip b/" in said and "caption" in said and "bug" not in said, said


def a_store_keeps_what_is_made_elsewhere(folder):
    """Of a vae_encode without a cache the store's values are those it would have kept itself, byte for byte, log-variances too."""
    make_clip(folder / "a.mp4", 0.75)
    make_clip(folder / "b.mp4", 0.2, "48x64", audio=True)
    (folder / "clips.json").write_text('[{"path": "a.mp4", "text": "one"}, {"path": "b.mp4", "text": "two"}]')
    model, far = narrow_model(folder / "model"), elsewhere(folder / "far", "vae_encode")
    here, there = folder / "here", folder / "there"
    graph = precompute(folder / "p.toml", folder / "clips.json", here, model, encode='logvar = true\ncache_dtype = "f16"\ntile = "32"')
    run(graph)
    text = graph.read_text().replace(f'"{here}"', f'"{there}"').replace('kind = "vae_encode"', f'exec = "{far}"')
    graph.write_text(text.replace("[graph]", '[graph]\ntransport = "tcp"'))
    run(graph)
    assert clips_of(there) == clips_of(here) and clips_of(here)["a"]["logvar"], clips_of(there)
    assert values_of(there) == values_of(here) and len(values_of(here)) == 4
    for clip in "ab":
        for cache in (here, there):
            latents("export", cache, clip, f"{cache}-{clip}")
        assert sha256(f"{here}-{clip}") == sha256(f"{there}-{clip}"), clip
    latents("verify", there)
    run(decode(folder / "d.toml", there, folder / "{clip}-out.mp4", model, clips="b"))
    assert timestamps(folder / "b-out.mp4") == timestamps(folder / "b.mp4"), "log-variances are in the decoder's way"


def plan(graph, *arguments, expect=0):
    done = subprocess.run([BIN / "orchestrator", "plan", graph, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == expect, done.stdout
    return done.stdout


def of_several_clips_the_newest_is_decoded(folder):
    """A clip that was encoded again in another way stands beside the first: the newest is taken, plan says so, digest chooses."""
    make_clip(folder / "a.mp4", 0.5)
    make_clip(folder / "b.mp4", 0.25)
    model, cache, output = narrow_model(folder / "model"), folder / "cache", folder / "out" / "{clip}.mp4"
    (folder / "clips.json").write_text('[{"path": "a.mp4"}, {"path": "b.mp4"}]')
    (folder / "again.json").write_text('[{"path": "a.mp4"}]')
    run(precompute(folder / "p.toml", folder / "clips.json", cache, model))
    graph, film = decode(folder / "d.toml", cache, output, model), folder / "out" / "a.mp4"
    assert "more than once" not in plan(graph)
    assert "2 clips done" in run(graph)
    older, first = clips_of(cache)["a"]["digest"], sha256(film)
    run(precompute(folder / "q.toml", folder / "again.json", cache, model, "interval = 2"), "--fresh")
    newer = [clip for clip in map(json.loads, latents("ls", cache, "--json").splitlines()) if clip["clip"] == "a" and clip["digest"] != older]
    assert len(newer) == 1 and newer[0]["completed_ms"] > 0, newer
    newer = newer[0]["digest"]
    said = plan(graph)
    assert f"the cache holds a clip more than once: the newest is taken, a/{newer} of 20" in said and "2 clips" in said, said
    # The run is through with the older one: the newer is new to it.
    assert "1 clips done, 1 there already" in run(graph)
    second = sha256(film)
    assert "0 clips done" in run(graph) and sha256(film) == second != first
    run(graph, "--fresh", "--set", f"stage.read.digest={older[:6]}", "--set", "stage.read.clips=a")
    assert sha256(film) == first, "not the clip that was chosen"
    run(decode(folder / "one.toml", cache, folder / "one.mp4", model, clips="a"))
    assert sha256(folder / "one.mp4") == second, "one name alone is the newest, too"
    # Copied, it keeps its time; a state without one is an earlier build's, and older than any with it.
    latents("copy", cache, folder / "copy")
    assert latents("ls", folder / "copy") == latents("ls", cache)
    data = folder / "copy" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b'"completed_ms":', b'"completed_xx":'))
    said = plan(decode(folder / "o.toml", folder / "copy", output, model), expect=1)
    assert "clip a more than once" in said and "option digest" in said, said


def clips_of_several_chunks_are_decoded(folder):
    """A window of the clip with short chunks takes more of them at once than the other, for which the decoder is planned."""
    model, cache = narrow_model(folder / "model"), folder / "cache"
    for name, chunk in (("long", 8), ("short", 2)):
        make_clip(folder / f"{name}.mp4", 2)
        (folder / "clips.json").write_text(json.dumps([{"path": f"{name}.mp4"}]))
        run(precompute(folder / f"{name}.toml", folder / "clips.json", cache, model, f"chunk = {chunk}"), "--fresh")
        run(decode(folder / f"{name}-alone.toml", cache, folder / f"{name}-alone.mp4", model, clips=name))
    assert "2 clips done" in run(decode(folder / "all.toml", cache, folder / "out" / "{clip}.mp4", model))
    for name in ("long", "short"):
        assert sha256(folder / "out" / f"{name}.mp4") == sha256(folder / f"{name}-alone.mp4"), name


def one_long_video_in_two_runs(folder):
    """encode.toml and decode.toml: the file of one run through everything, sound and variable rate too."""
    source = folder / "vfr.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:rate=24:duration=2", "-f", "lavfi", "-i", "sine=duration=2",
           "-vf", "select='not(eq(mod(n,5),3))'", "-fps_mode", "vfr", "-c:v", "libx264", "-c:a", "aac", source)
    model = narrow_model(folder / "model")
    sets = ["--set", f"graph.cache={folder}/cache", "--set", f"graph.run={folder}/run"]
    run(ROOT / "examples" / "encode.toml", *sets, "--set", f"stage.read.input={source}", "--set", "stage.read.size=64x64",
        "--set", f"stage.vae_encode.model={model}")
    run(ROOT / "examples" / "decode.toml", *sets[:2], "--set", f"stage.vae_decode.model={model}", "--set", "stage.read.clips=vfr",
        "--set", f"stage.write.output={folder}/later.mp4")
    run(write_graph(folder / "g.toml", source, folder / "direct.mp4", model=model, read='size = "64x64"'))
    assert sha256(folder / "later.mp4") == sha256(folder / "direct.mp4")
    assert (folder / "run.longtake" / "report.json").exists() and not (folder / "cache.longtake").exists()
    assert probe(folder / "later.mp4", "stream=codec_name", "a:0")["streams"], "the sound is gone"


def pytorch_reads_it(folder):
    """The data set class of the README, as it stands there, in worker processes; where torch is at hand."""
    lines, code = (ROOT / "README.md").read_text().splitlines(), []
    start = next(i for i, line in enumerate(lines) if line.startswith("    import json, lmdb, torch"))
    while not lines[start] or lines[start].startswith("    "):
        code.append(lines[start][4:])
        start += 1
    python = os.environ.get("LT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import lmdb, torch, safetensors.torch"], stderr=subprocess.DEVNULL).returncode:
        print(f"skipped: {python} has no torch, lmdb and safetensors: 1 case")
        return
    model = narrow_model(folder / "model")
    (folder / "clips.json").write_text('[{"path": "a.mp4", "text": "one"}, {"path": "b.mp4", "text": "two"}]')
    # Each is there more than once, of another size and of what a file was before: the newest counts.
    for a_seconds, read in ((0.75, 'size = "32x32"'), (0.75, ""), (0.5, "")):
        for name, seconds in (("a", a_seconds), ("b", 0.25)):
            make_clip(folder / f"{name}.mp4", seconds)
        run(precompute(folder / "p.toml", folder / "clips.json", folder / "cache", model, read), "--fresh")
    assert len(latents("ls", folder / "cache").splitlines()) == 5
    code += ["torch.set_num_threads(1)", f"data = Latents({str(folder / 'cache')!r})",
             "got = [(tuple(x.shape[1:]), t, float(x.abs().max())) for x, t in torch.utils.data.DataLoader(data, num_workers=2)]", "print(got)",
             "assert [(s, t) for s, t, _ in got] == [((12, 4, 6, 8), ('one',)), ((6, 4, 6, 8), ('two',))] and all(m > 0 for _, _, m in got)"]
    (folder / "train.py").write_text("\n".join(code))
    subprocess.run([python, folder / "train.py"], check=True, stdout=subprocess.DEVNULL)


def inputs_of_all_kinds(folder):
    """Transport streams, open groups of pictures, interlaced, variable rate, 10 bits with HDR tags, pictures alone and numbered."""
    test = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24:duration=1"]
    ffmpeg(*test, "-c:v", "libx264", "-g", "6", folder / "stream.ts")
    ffmpeg(*test, "-c:v", "libx264", "-x264-params", "open-gop=1:keyint=8:bframes=3", folder / "open.mkv")
    ffmpeg(*test, "-vf", "interlace", "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2", folder / "fields.mpg")
    ffmpeg(*test, "-vf", "select='not(eq(mod(n,5),3))'", "-fps_mode", "vfr", "-c:v", "libx264", folder / "vfr.mkv")
    ffmpeg(*test, "-pix_fmt", "yuv420p10le", "-c:v", "libx264", "-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace",
           "bt2020nc", folder / "hdr.mkv")
    ffmpeg(*test, "-frames:v", 1, folder / "picture.png")
    ffmpeg(*test, "-frames:v", 1, folder / "photo.jpg")
    (folder / "shots").mkdir()
    ffmpeg(*test, "-frames:v", 10, folder / "shots" / "%03d.png")
    frames = {"stream.ts": 24, "open.mkv": 24, "fields.mpg": 12, "vfr.mkv": 19, "hdr.mkv": 24, "picture.png": 1, "photo.jpg": 1, "shots/%03d.png": 10}
    names = {"shots/%03d.png": "shots"}
    manifest, cache, model = folder / "clips.json", folder / "cache", narrow_model(folder / "model")
    manifest.write_text(json.dumps([{"path": path, **({} if path in names else {"name": pathlib.Path(path).stem})} for path in frames]))
    run(precompute(folder / "p.toml", manifest, cache, model, "deinterlace = true"))
    there = clips_of(cache)
    assert {clip["clip"]: clip["frames"] for clip in there.values()} == {names.get(path, pathlib.Path(path).stem): n for path, n in frames.items()}, there
    for name, words in (("hdr.mkv", "HDR (PQ)"), ("fields.mpg", "interlaced: both fields")):
        graph = write_graph(folder / "plan.toml", folder / name, folder / "o.mp4", model=model)
        said = subprocess.run([BIN / "orchestrator", "plan", graph], stdout=subprocess.PIPE, check=True, text=True).stdout
        assert words in said, said
    # One field has no comb: odd rows of moving pictures are no further from their neighbours than even ones.
    combs = {}
    for one in ("false", "true"):
        remux = folder / f"{one}.toml"
        remux.write_text(f'[stage.read]\nkind = "decode"\ninput = "{folder}/fields.mpg"\ndeinterlace = {one}\n'
                         f'[stage.write]\nkind = "mux"\nfrom = "read"\noutput = "{folder}/{one}.mkv"\ncodec = "ffv1"\n')
        run(remux)
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", folder / f"{one}.mkv", "-f", "rawvideo", "-pix_fmt", "gray", "-"],
                             stdout=subprocess.PIPE, check=True).stdout
        rows = [raw[at : at + 64] for at in range(0, len(raw), 64)]
        def off(a, b):
            return sum(abs(x - y) for x, y in zip(a, b))
        inside = [i for i in range(len(rows)) if 2 <= i % 64 < 62]
        combs[one] = sum(off(rows[i], rows[i + 1]) for i in inside) / sum(off(rows[i], rows[i + 2]) for i in inside)
    assert combs["true"] < 0.9 * combs["false"], combs


def progress_counts_what_is_left(folder):
    """Of a run that is continued: clips that are there count for nothing, and a stage's frames are those of all its clips."""
    manifest, cache, n, frames = folder / "clips.json", folder / "cache", 40, 24
    manifest.write_text(json.dumps([{"path": f"lavfi:testsrc2=size=128x72:rate=24,trim=end_frame={frames}", "name": f"c{i}"} for i in range(n)]))
    graph = precompute(folder / "p.toml", manifest, cache, MODEL, read='size = "128x72"')
    going = Run(graph)
    wait_until(lambda: (folder / "cache.longtake" / "clips.jsonl").exists() and len(journal(cache)) >= n // 2, 60, "half of the clips")
    going.process.send_signal(signal.SIGINT)
    assert going.wait() == 130, going.text()
    left = n - len(journal(cache))
    events = [json.loads(line) for line in run(graph, "--json").splitlines() if line[0] == "{"]
    seen = [event for event in events if event["event"] == "progress" and event["frames"]]
    assert seen, "a run that is over before its progress is told"
    assert all(event["frames_total"] <= (left + 1) * frames and event["clips_total"] == n for event in seen), seen
    assert all(n - left <= event["clips"] <= n for event in seen), seen
    made = [next(stage for stage in event["stages"] if stage["name"] == "vae_encode") for event in seen]
    assert all(a["frames"] <= b["frames"] for a, b in zip(made, made[1:])), made
    assert made[-1]["frames"] > frames and made[-1]["fps"] > 0.5 * seen[-1]["fps"], (made[-1], seen[-1])


def very_many_clips(folder):
    """A small run of the study: speed is printed, memory must not grow, a killed run goes on at once."""
    sys.path.insert(0, str(ROOT / "tests" / "studies"))
    import many_clips
    many_clips.study(folder, 1000)


if __name__ == "__main__":
    need_model()
    main([from_manifest_to_latents_to_videos, outputs_do_not_meet, a_store_keeps_what_is_made_elsewhere, failing_clips_cost_themselves, bytes_that_are_no_text_cost_nothing, a_list_of_failures_is_a_manifest_in_its_own_run, every_sink_of_a_data_set_has_a_say, a_finished_data_set_is_looked_at_again, failed_clips_are_told_before_a_bad_end, a_clip_is_not_written_over_another,
          only_what_is_new_is_computed, manifests_say_what_is_taken,
          wrong_manifests_are_told_where, latents_come_and_go, a_clip_that_cannot_be_right_costs_itself, of_several_clips_the_newest_is_decoded, one_long_video_in_two_runs, inputs_of_all_kinds, pytorch_reads_it, progress_counts_what_is_left, very_many_clips, clips_of_several_chunks_are_decoded])
