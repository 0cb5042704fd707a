"""The round trip through every process: what stays the same, and what must not be lost.

    tests/pipeline/roundtrip.py [NAME...]
"""

import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, ROOT, TRAINED, main, narrow_model, need_model, run, sha256, write_graph  # noqa: E402

SOURCE = "lavfi:testsrc2=size=96x64:rate=24:duration=3"


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def probe(path, entries, stream="v:0"):
    text = subprocess.run(["ffprobe", "-loglevel", "error", "-select_streams", stream, "-show_entries", entries, "-of", "json", path],
                          stdout=subprocess.PIPE, check=True).stdout
    return json.loads(text)


def timestamps(path):
    frames = probe(path, "frame=pts_time")["frames"]
    return [float(frame["pts_time"]) for frame in frames]


def psnr(a, b, *arguments):
    text = subprocess.run([BIN / "compare", a, b, "--json", *map(str, arguments)], stdout=subprocess.PIPE, check=True).stdout
    return json.loads(text.decode().splitlines()[-1])


def same_bytes_however_it_is_run(folder):
    """Transport, replicas, threads and cache decide where the work is done, never what comes out."""
    hashes = {}
    for name, options in {
        "memory": {},
        "tcp": {"transport": "tcp"},
        "replicas": {"replicas": 3},
        "cache": {"cache": folder / "cache"},
        "tcp-replicas-cache": {"transport": "tcp", "replicas": 2, "cache": folder / "cache2"},
        "one-thread": {"graph": "threads = 1"},
    }.items():
        output = folder / f"{name}.mp4"
        run(write_graph(folder / f"{name}.toml", SOURCE, output, decode="window = 8\nstride = 6", **options))
        hashes[name] = sha256(output)
    assert len(set(hashes.values())) == 1, hashes


def the_picture_survives(folder):
    """The decoded file shows what went in: wrong colours, order or orientation would leave far less than 24 dB."""
    source = folder / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=192x128:rate=24:duration=2", "-vf",
           "gblur=sigma=3,hue=s=0.35,eq=contrast=0.7", "-c:v", "libx264", "-crf", "10", source)
    output = folder / "out.mp4"
    run(write_graph(folder / "g.toml", source, output, model=TRAINED))
    got = psnr(source, output)["video"]["global"]
    assert got > 24, f"{got} dB"
    assert len(timestamps(output)) == 48


def a_cache_is_used_again(folder):
    cache = folder / "cache"
    run(write_graph(folder / "a.toml", SOURCE, folder / "a.mp4", cache=cache))
    before = json.loads(subprocess.run([BIN / "latents", "stat", cache, "--json"], stdout=subprocess.PIPE, check=True).stdout)
    run(write_graph(folder / "b.toml", SOURCE, folder / "b.mp4", cache=cache))
    after = json.loads(subprocess.run([BIN / "latents", "stat", cache, "--json"], stdout=subprocess.PIPE, check=True).stdout)
    assert before["last_transaction"] == after["last_transaction"], "a chunk that was cached was written again"
    assert sha256(folder / "a.mp4") == sha256(folder / "b.mp4")
    subprocess.run([BIN / "latents", "verify", cache], check=True, stdout=subprocess.DEVNULL)


def python_reads_a_value(folder):
    """With the packages lmdb and safetensors alone; the part that needs them says when it was skipped."""
    cache = folder / "cache"
    run(write_graph(folder / "a.toml", SOURCE, folder / "a.mp4", cache=cache))
    try:
        import lmdb
        import safetensors.numpy
    except ImportError:
        print("skipped: python packages lmdb and safetensors are not installed: 1 case")
        return
    with lmdb.open(str(cache), readonly=True) as environment, environment.begin() as transaction:
        frames = 0
        for key, value in transaction.cursor():
            if key.startswith(b"latent/"):
                latent = safetensors.numpy.load(value)["latent"]
                assert latent.ndim == 4 and latent.shape[1:] == (4, 8, 12), latent.shape
                frames += latent.shape[0]
    assert frames == 72, frames


def odd_sizes_come_back(folder):
    source = folder / "odd.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=86x70:rate=24:duration=1", "-c:v", "libx264", source)
    run(write_graph(folder / "g.toml", source, folder / "out.mp4"))
    stream = probe(folder / "out.mp4", "stream=width,height")["streams"][0]
    assert (stream["width"], stream["height"]) == (86, 70), stream


def one_frame(folder):
    run(write_graph(folder / "g.toml", "lavfi:testsrc=size=64x64:rate=24", folder / "out.mp4", read="frames = 1"))
    assert len(timestamps(folder / "out.mp4")) == 1


def audio_and_variable_rate_survive(folder):
    source = folder / "vfr.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:rate=24:duration=3", "-f", "lavfi", "-i", "sine=duration=3",
           "-vf", "select='not(eq(mod(n,5),3))'", "-fps_mode", "vfr", "-c:v", "libx264", "-c:a", "aac", source)
    run(write_graph(folder / "g.toml", source, folder / "out.mp4"))
    there, here = timestamps(source), timestamps(folder / "out.mp4")
    assert len(there) == len(here), (len(there), len(here))
    worst = max(abs((a - there[0]) - (b - here[0])) for a, b in zip(there, here))
    assert worst < 0.0006, f"timestamps moved by {worst} s"
    assert probe(folder / "out.mp4", "stream=codec_name", "a:0")["streams"], "the audio is gone"


def remux(source, output, *settings, expect=0):
    return run(ROOT / "examples" / "remux.toml", "--set", f"stage.read.input={source}", "--set", f"stage.write.output={output}", *settings, expect=expect)


def what_is_lost_is_said(folder):
    """Sound that the format does not hold, transparency: on the terminal and in the report, with an ending that would hold it."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=1,format=rgba", "-f", "lavfi", "-i", "sine=duration=1",
           "-c:v", "ffv1", "-pix_fmt", "bgra", "-c:a", "pcm_s16le", folder / "in.mkv")
    text = remux(folder / "in.mkv", folder / "out.mp4")
    said = json.loads((folder / "out.mp4.longtake" / "report.json").read_text())["left_out"]
    assert said == ["transparency", "audio (pcm_s16le), which the mp4 format does not hold (.mkv does)"], said
    assert all(f"left out: {what}" in text for what in said), text
    assert "audio" not in remux(folder / "in.mkv", folder / "out.mkv")
    assert probe(folder / "out.mkv", "stream=codec_name", "a:0")["streams"], "the audio is gone"


def fewer_bits_are_said(folder):
    """By the stage that keeps fewer: once, and not where all are kept."""
    model = narrow_model(folder / "model")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=0.5", "-c:v", "libx264", "-pix_fmt", "yuv420p10le", folder / "deep.mkv")

    def left_out(name):
        return json.loads((folder / f"{name}.longtake" / "report.json").read_text())["left_out"]

    text = run(write_graph(folder / "a.toml", folder / "deep.mkv", folder / "a.mp4", model=model))
    assert left_out("a.mp4") == ["2 of the source's 10 bits a sample (bits = 16 keeps them)"] and f"left out: {left_out('a.mp4')[0]}" in text, text
    run(write_graph(folder / "b.toml", folder / "deep.mkv", folder / "b.mp4", model=model, decode="bits = 16"))
    assert left_out("b.mp4") == [], left_out("b.mp4")
    assert "left out" not in remux(folder / "deep.mkv", folder / "c.mp4")
    remux(folder / "deep.mkv", folder / "d.mp4", "--set", "stage.write.pixel_format=yuv420p")
    assert left_out("d.mp4") == ["2 of the source's 10 bits a sample, which yuv420p does not hold"], left_out("d.mp4")
    remux(folder / "deep.mkv", folder / "e.mp4", "--set", "stage.read.bits=8")
    assert left_out("e.mp4") == ["2 of the source's 10 bits a sample (bits = 16 keeps them)"], left_out("e.mp4")


def an_output_that_was_removed_is_joined_again(folder):
    """From the finished segments, without a frame that is decoded; where these were not kept, all is made again."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=9", "-f", "lavfi", "-i", "sine=duration=9", "-c:v", "libx264", "-c:a", "aac",
           folder / "in.mkv")
    for keep in ("true", "false"):
        output, setting = folder / f"{keep}.mp4", ("--set", f"stage.write.keep_segments={keep}")
        remux(folder / "in.mkv", output, *setting)
        whole, log = sha256(output), folder / f"{keep}.mp4.longtake" / "logs"
        output.unlink()
        assert "continues the run" in remux(folder / "in.mkv", output, *setting)
        assert sha256(output) == whole
        said = "".join(path.read_text() for path in log.iterdir())
        assert ("216 frames are there already" in said) == (keep == "true"), said
        assert "nothing to do" in remux(folder / "in.mkv", output, *setting)


def chapters_need_no_sound(folder):
    (folder / "m.txt").write_text(";FFMETADATA1\ntitle=Silent\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=one\n"
                                  "[CHAPTER]\nTIMEBASE=1/1000\nSTART=500\nEND=1000\ntitle=two\n")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=1", "-i", folder / "m.txt", "-map", "0", "-map_metadata", "1",
           "-map_chapters", "1", "-c:v", "libx264", folder / "in.mkv")
    remux(folder / "in.mkv", folder / "out.mp4")
    found = probe(folder / "out.mp4", "chapter=start_time,end_time:chapter_tags=title:format_tags=title")
    assert found["format"]["tags"]["title"] == "Silent", found
    assert [(c["tags"]["title"], float(c["start_time"]), float(c["end_time"])) for c in found["chapters"]] == [("one", 0, 0.5), ("two", 0.5, 1)], found
    # Nor sound in the part that is taken.
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=6", "-f", "lavfi", "-i", "sine=duration=0.5", "-i", folder / "m.txt", "-map", "0",
           "-map", "1", "-map_metadata", "2", "-map_chapters", "-1", "-c:v", "libx264", folder / "late.mkv")
    remux(folder / "late.mkv", folder / "late.mp4", "--set", "stage.read.start=4")
    found = probe(folder / "late.mp4", "format_tags=title:stream=codec_type")
    assert found["format"]["tags"]["title"] == "Silent" and len(found["streams"]) == 1, found


def an_output_that_cannot_be_is_refused_at_once(folder):
    text = remux(SOURCE, folder / "out.gif", expect=1)
    assert "the gif format does not take the pictures of libx264" in text and "choose another ending" in text, text
    assert not list(folder.glob("*.longtake/segments/*")), "it was encoded before it was refused"


def side_by_side_has_the_format_of_its_ending(folder):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24:duration=0.5", "-c:v", "ffv1", folder / "a.mkv")
    for ending, name in {"mkv": "matroska", "mp4": "mp4"}.items():
        psnr(folder / "a.mkv", folder / "a.mkv", "--side-by-side", folder / f"both.{ending}")
        found = probe(folder / f"both.{ending}", "format=format_name:stream=width")
        assert name in found["format"]["format_name"].split(","), found
        assert found["streams"][0]["width"] == 132 and len(timestamps(folder / f"both.{ending}")) == 12, found


def memory_does_not_grow_with_length(folder):
    """300 and 6,000 frames: peaks (RssAnon + RssShmem) within 5 % of each other, and no more than 10 % over what the plan said."""
    peaks, model = {}, narrow_model(folder / "model")
    for frames in (300, 6000):
        output = folder / f"{frames}.mp4"
        run(write_graph(folder / f"{frames}.toml", f"lavfi:testsrc2=size=64x64:rate=24:duration={frames / 24}", output, model=model), timeout=300)
        stages = json.loads((folder / f"{frames}.mp4.longtake" / "report.json").read_text())["stages"]
        peaks[frames] = {stage["name"]: (stage["peak_bytes"], stage["planned_bytes"]) for stage in stages}
    mib = 1 << 20
    for name, (long_peak, planned) in peaks[6000].items():
        short_peak = peaks[300][name][0]
        print(f"  {name}: {short_peak / mib:.1f} MiB for 300 frames, {long_peak / mib:.1f} for 6000, {planned / mib:.1f} planned")
    for name, (long_peak, planned) in peaks[6000].items():
        short_peak = peaks[300][name][0]
        assert long_peak <= 1.05 * short_peak, f"{name} grew from {short_peak} to {long_peak} bytes"
        assert long_peak <= 1.1 * planned, f"{name} used {long_peak} bytes, {planned} were planned"


if __name__ == "__main__":
    need_model()
    main([same_bytes_however_it_is_run, the_picture_survives, a_cache_is_used_again, python_reads_a_value, odd_sizes_come_back, one_frame,
          audio_and_variable_rate_survive, what_is_lost_is_said, fewer_bits_are_said, an_output_that_was_removed_is_joined_again, chapters_need_no_sound, an_output_that_cannot_be_is_refused_at_once,
          side_by_side_has_the_format_of_its_ending, memory_does_not_grow_with_length])
