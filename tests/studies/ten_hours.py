"""A film of ten hours at 64x64, of variable rate and with sound: memory that stays flat, no frame lost, timestamps exact to the end.

    tests/studies/ten_hours.py [HOURS] [FOLDER] [remux | encode]        default 10; FOLDER is kept, and a film that is in it is used again

Two runs, each killed with -9 in the middle and continued: decode -> mux (x264 ultrafast), and decode -> vae_encode -> store with a model
of 16 channels. Every few seconds the anonymous and shared memory of every stage is read, and attributed to the hour of the film that the run has
come to. Flat means: the most of the last hour is within 5 % or 2 MiB of the most of the second. What is taken at the end, when segments are
joined into a file whose index is all held, is told apart. Every timestamp of the output is compared with the film's, and those of the
cache where Python has the package lmdb.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from harness import BIN, Folder, Run, narrow_model, need_model  # noqa: E402
from roundtrip import ffmpeg  # noqa: E402

RATE, BASE = 25, 90000
MIB = 1 << 20
MARGIN = 40000  # frames: progress is told every ten seconds, and the end may have come since
END = 1 << 20  # instead of an hour: at the end
SAMPLE_S = 3

REMUX = """
[stage.read]
kind = "decode"
input = "{film}"

[stage.write]
kind = "mux"
from = "read"
output = "{folder}/out.mp4"
options = "preset=ultrafast"
"""

ENCODE = """
[graph]
cache = "{folder}/cache"
run = "{folder}/encode"

[stage.read]
kind = "decode"
input = "{film}"

[stage.vae_encode]
kind = "vae_encode"
from = "read"
model = "{folder}/model"
batch = 8
threads = 1

[stage.keep]
kind = "store"
from = "vae_encode"
"""


def make_film(path, frames):
    """No two neighbouring frames last equally long, nor do the patterns repeat with a chunk or a segment."""
    part, seconds = path.with_suffix(".part.mp4"), frames / RATE
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=64x64:rate={RATE}:duration={seconds},settb=1/{BASE},"
           f"setpts='N*{BASE // RATE}+mod(N*7919,1201)'", "-f", "lavfi", "-i", f"sine=sample_rate=8000:duration={seconds}",
           "-fps_mode", "passthrough", "-enc_time_base", f"1:{BASE}", "-video_track_timescale", BASE, "-c:v", "libx264", "-preset", "ultrafast",
           "-g", 250, "-threads", 1, "-c:a", "aac", "-b:a", "16k", part)
    part.rename(path)


def packets(path, stream):
    """Timestamps of a stream, in order, and where its last packet ends; in its time base."""
    text = subprocess.run(["ffprobe", "-loglevel", "error", "-select_streams", stream, "-show_entries", "packet=pts,duration", "-of", "csv=p=0",
                           path], stdout=subprocess.PIPE, check=True, text=True).stdout
    times = sorted(tuple(map(int, line.split(",")[:2])) for line in text.split())
    return [pts for pts, _ in times], sum(times[-1])


def memory_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon", "RssShmem"))) * 1024


def frames_done(log):
    """What the last line of progress says; None before there is one."""
    found = re.findall(r"^\S+ (\d+) of \d+ frames", log, re.MULTILINE)
    return int(found[-1]) if found else None


class Watch:
    """The most memory of every stage in every hour of the film, and how fast each hour went by."""

    def __init__(self, frames):
        self.most, self.reached, self.frames = {}, {}, frames

    def sample(self, going, origin):
        done = frames_done(going.text()[origin:])
        if done is None:
            return 0
        hour = done // (3600 * RATE) if done < self.frames - MARGIN else END
        for pid, program in going.stages().items():
            try:
                most = self.most.setdefault(program.removeprefix("stage-"), {})
                most[hour] = max(most.get(hour, 0), memory_of(pid))
            except (FileNotFoundError, ProcessLookupError):
                continue
        self.reached.setdefault(hour, time.monotonic())
        return done

    def report(self, name, hours):
        for program, most in sorted(self.most.items()):
            hours_of = {hour: "end" if hour == END else hour + 1 for hour in sorted(most)}
            print(f"{name}: {program}, most MiB by hour: " + ", ".join(f"{text}: {most[hour] / MIB:.1f}" for hour, text in hours_of.items()))
        seconds = {hour: self.reached[hour + 1] - begin for hour, begin in self.reached.items() if hour + 1 in self.reached}
        print(f"{name}: seconds an hour took: " + ", ".join(f"{hour + 1}: {seconds[hour]:.0f}" for hour in sorted(seconds)))
        for program, most in self.most.items():
            second, last = most.get(1), most.get(hours - 1)
            if hours > 2 and second and last:
                assert last <= max(1.05 * second, second + 2 * MIB), f"{name}: {program} grew from {second} to {last} bytes"


def run_and_kill(name, graph, frames):
    """Run a graph, kill its orchestrator in the middle, continue; what was seen."""
    watch, begin, killed, origin = Watch(frames), time.monotonic(), None, 0
    going = Run(graph)
    while going.running():
        time.sleep(SAMPLE_S)
        done = watch.sample(going, origin)
        if killed is None and done >= frames // 2:
            os.kill(going.pid, signal.SIGKILL)
            going.process.wait()
            killed, origin, going = done, len(going.text()), Run(graph)
    seconds = time.monotonic() - begin
    assert going.process.returncode == 0, going.text()[-2000:]
    if killed is None:
        print(f"{name}: was over before it could be killed")
    print(f"{name}: {frames} frames in {seconds:.0f} s, {frames / seconds:.0f} a second; killed at frame {killed}, and continued")
    return watch


def report_of(path, name):
    for stage in json.loads(path.read_text())["stages"]:
        print(f"{name}: {stage['name']}: peak {stage['peak_bytes'] / MIB:.1f} MiB, planned {stage['planned_bytes'] / MIB:.1f}; "
              f"{stage['units']} units in the last run, {stage['cpu_seconds']:.0f} s of processor time")


def check_remux(folder, film, frames):
    times, end = packets(film, "v:0")
    got, got_end = packets(folder / "out.mp4", "v:0")
    assert len(times) == frames and len(got) == frames, f"{len(got)} frames of {len(times)}"
    wrong = [i for i in range(frames) if times[i] != got[i]]
    assert not wrong, f"{len(wrong)} timestamps moved, the first that of frame {wrong[0]}: {got[wrong[0]]}, should be {times[wrong[0]]}"
    assert end == got_end, f"the last frame ends at {got_end}, should at {end}"
    sound, heard = packets(film, "a:0"), packets(folder / "out.mp4", "a:0")
    assert sound[0] == heard[0], "the sound's timestamps moved"
    segments = json.loads((folder / "out.mp4.longtake" / "segments.json").read_text())["segments"]
    at = 0
    for segment in segments:
        assert segment["first"] == at and segment["pts"] == times[at], segment
        at += segment["frames"]
        assert segment["end"] == (times[at] if at < frames else end), segment
    assert at == frames, f"the segments hold {at} frames"
    print(f"remux: {frames} timestamps, the end ({end} / {BASE} s), {len(sound[0])} packets of sound and {len(segments)} segments are exact")


def check_cache(folder, film, frames):
    times, _ = packets(film, "v:0")
    clip = json.loads(subprocess.run([BIN / "latents", "ls", folder / "cache", "--json"], stdout=subprocess.PIPE, check=True).stdout)
    assert clip["state"] == "complete" and clip["frames"] == len(times) == frames, clip
    subprocess.run([BIN / "latents", "verify", folder / "cache"], check=True, stdout=subprocess.DEVNULL)
    print(f"encode: {clip['frames']} frames of latents in {clip['chunks']} chunks are there and verified")
    try:
        import lmdb
    except ImportError:
        print("skipped: no Python package lmdb: the timestamps in the cache were not looked at")
        return
    with lmdb.open(str(folder / "cache"), readonly=True) as environment, environment.begin() as transaction:
        record = json.loads(transaction.get(f"clip/{clip['clip']}/{clip['digest']}".encode()))
        got, at = [record["timestamps"]["first"]], 0
        for step in record["timestamps"]["steps"].split():
            step, _, count = step.partition("x")
            got += [got[-1] + int(step) * (i + 1) for i in range(int(count or 1))]
        assert got == times, "the record's timestamps are others"
        for key, value in transaction.cursor():
            if not bytes(key).startswith(b"latent/"):
                continue
            header = json.loads(value[8 : 8 + int.from_bytes(value[:8], "little")])["__metadata__"]
            pts = json.loads(header["pts"])
            assert int(header["first_frame"]) == at and pts == times[at : at + len(pts)], f"the chunk at frame {at}"
            at += len(pts)
        assert at == len(times), f"chunks of {at} frames"
    print(f"encode: {len(got)} timestamps of the record, and of the chunks, are exact")


def study(folder, hours, only=None):
    film, frames = folder / "film.mp4", round(hours * 3600 * RATE)
    folder.mkdir(exist_ok=True)
    if not film.exists():
        make_film(film, frames)
    if not (folder / "model").exists():
        narrow_model(folder / "model", 16)
    for name, text, run_folder, check in (("remux", REMUX, "out.mp4.longtake", check_remux), ("encode", ENCODE, "encode.longtake", check_cache)):
        if only in (None, name):
            graph = folder / f"{name}.toml"
            graph.write_text(text.format(film=film, folder=folder))
            watch = run_and_kill(name, graph, frames)
            report_of(folder / run_folder / "report.json", name)
            check(folder, film, frames)
            watch.report(name, int(hours))


if __name__ == "__main__":
    need_model()
    sys.stdout.reconfigure(line_buffering=True)
    wanted = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    if len(sys.argv) > 2:
        study(pathlib.Path(sys.argv[2]).resolve(), wanted, *sys.argv[3:4])
    else:
        with Folder("ten-hours") as made:
            study(made, wanted)
