"""A clip that a stage dies of, three times over: it is given up, alone, and named; its neighbours are made as ever.

    tests/faults/repeated_deaths.py [NAME...]

The library made of shim.c is taken from $LT_SHIM, or from the build beside $LT_BIN: it makes a file deadly for who opens it.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from datasets import clips_of, decode, latents, make_clip, precompute  # noqa: E402
from harness import BIN, main, narrow_model, need_model, run, sha256, skip  # noqa: E402
from world import SHIM, go, shimmed  # noqa: E402

NAMES = [f"{i}" for i in range(5)]
BAD = "2"


def manifest(folder, lengths=None):
    for name in NAMES:
        make_clip(folder / f"{name}.mp4", (lengths or {}).get(name, 0.5))
    path = folder / "clips.json"
    path.write_text(json.dumps([{"path": f"{name}.mp4", "text": f"clip {name}"} for name in NAMES]))
    return path


def failures(run_folder):
    return {entry.get("name") or pathlib.Path(entry["path"]).stem: entry["error"] for entry in json.loads((run_folder / "failed.json").read_text())}


def a_source_dies_of_opening_a_file(folder):
    """At work, and while the run is planned; the same command makes the clip when its file is well again."""
    clips, model, cache, calm = manifest(folder), narrow_model(folder / "model"), folder / "cache", folder / "calm"
    run(precompute(folder / "calm.toml", clips, calm, model, read="chunk = 4"))
    graph = precompute(folder / "p.toml", clips, cache, model, read="chunk = 4", replicas=2)
    code, text = go(graph, shimmed(DEADLY=f"/{BAD}.mp4"))
    assert code == 3, text
    made = {name for name, clip in clips_of(cache).items() if clip["state"] == "complete"}
    assert made == set(NAMES) - {BAD}, (made, text)
    assert "stage read crashed 3 times while opening it (signal 6" in text, text
    assert text.count("crashed while opening clip 2 ") == 2, text
    failed = failures(pathlib.Path(f"{cache}.longtake"))
    assert list(failed) == [BAD] and "crashed 3 times while opening it" in failed[BAD], failed
    run(graph)
    for name in NAMES:
        for where in (cache, calm):
            latents("export", where, name, f"{where}-{name}.safetensors")
        assert sha256(f"{cache}-{name}.safetensors") == sha256(f"{calm}-{name}.safetensors"), f"{name} differs"


def the_first_file_of_a_manifest(folder):
    """It is the one that the plan looks at first, too; and with nothing but deadly files there is no plan."""
    clips, model = manifest(folder), narrow_model(folder / "model")
    graph = precompute(folder / "p.toml", clips, folder / "cache", model, read="chunk = 4")
    code, text = go(graph, shimmed(DEADLY="/0.mp4"))
    assert code == 3 and list(failures(folder / "cache.longtake")) == ["0"], text
    code, text = go(precompute(folder / "all.toml", clips, folder / "other", model), shimmed(DEADLY=".mp4"))
    assert code == 1 and "opening it kills the stage (signal 6" in text, text


def a_filter_dies_of_a_unit(folder):
    """Only the long clip has the unit that the filter dies of."""
    stages = BIN / "tests"
    clips = manifest(folder, {BAD: 1.0})
    graph = folder / "filter.toml"
    graph.write_text(f"""
[stage.read]
kind = "decode"
manifest = "{clips}"
chunk = 4
[stage.work]
exec = "{stages}/stage-null_filter"
from = "read"
crash_unit = 4
replicas = 2
[stage.write]
exec = "{stages}/stage-null_sink"
from = "work"
output = "{folder}/out"
""")
    text = run(graph, expect=3)
    assert "crashed 3 times on it (signal 6" in text and f"clip {BAD} failed" in text, text
    run_folder = next(folder.glob("*.longtake"))
    assert list(failures(run_folder)) == [BAD], failures(run_folder)


def a_sink_dies_of_a_clip(folder):
    """mux dies when it joins one of the films; those beside it are of an undisturbed run."""
    clips, model, cache = manifest(folder), narrow_model(folder / "model"), folder / "cache"
    run(precompute(folder / "p.toml", clips, cache, model, read="chunk = 4"))
    run(decode(folder / "calm.toml", cache, folder / "calm" / "{clip}.mp4", model, write="segment = 8"))
    graph = decode(folder / "d.toml", cache, folder / "out" / "{clip}.mp4", model, write="segment = 8")
    code, text = go(graph, shimmed(DEADLY=f"out/{BAD}.mp4.part"))
    assert code == 3 and "stage write crashed 3 times while finishing it (signal 6" in text, text
    assert list(failures(folder / "out.longtake")) == [BAD], text
    for name in set(NAMES) - {BAD}:
        assert sha256(folder / "out" / f"{name}.mp4") == sha256(folder / "calm" / f"{name}.mp4"), name
    assert not (folder / "out" / f"{BAD}.mp4").exists()


def one_clip_alone_ends_the_run(folder):
    """Where there is nothing but this clip, its death is the end, and the sentence says of what."""
    make_clip(folder / "film.mp4", 0.5)
    text = folder / "one.toml"
    text.write_text(f"""
[graph]
cache = "{folder}/cache"
[stage.read]
kind = "decode"
input = "{folder}/film.mp4"
[stage.vae_encode]
kind = "vae_encode"
from = "read"
model = "{narrow_model(folder / 'model')}"
[stage.keep]
kind = "store"
from = "vae_encode"
""")
    code, said = go(text, shimmed(DEADLY="/film.mp4"))
    assert code == 1 and 'stage "read": planning died of signal 6 (Aborted)' in said, said


if __name__ == "__main__":
    need_model()
    if not SHIM.exists():
        skip(f"there is no {SHIM} (it is not built under sanitizers): nothing of this test ran")
    main([a_source_dies_of_opening_a_file, the_first_file_of_a_manifest, a_filter_dies_of_a_unit, a_sink_dies_of_a_clip,
          one_clip_alone_ends_the_run])
