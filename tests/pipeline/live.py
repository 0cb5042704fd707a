"""Inputs that come once: pipes, FIFOs, servers that cannot seek, graphs without an end. What comes out is what a file of the same frames
gives, whoever dies on the way; and it is a file, however the input ends.

    tests/pipeline/live.py [NAME...]
"""

import http.server
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, ROOT, Run, main, narrow_model, need_model, run, sha256, stage_pids, wait_until, write_graph  # noqa: E402

DECODE = "window = 8\nstride = 6"
WRITE = "segment = 20"


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def make_source(folder, frames=100, ending="ts"):
    source = folder / f"in.{ending}"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-frames:v", frames, "-c:v", "libx264", "-g", "12", "-bf", "2", source)
    return source


def graph(folder, name, source, model, write=WRITE, read="", **options):
    return write_graph(folder / f"{name}.toml", source, folder / f"{name}.mp4", model=model, decode=DECODE, write=write, read=read, **options)


def frames_of(path):
    """Frames that can be decoded; a file that cannot be played fails."""
    text = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames", "-of", "json",
                           path], stdout=subprocess.PIPE, check=True).stdout
    return int(json.loads(text)["streams"][0]["nb_read_frames"])


class LiveRun(Run):
    """A run that reads standard input from a descriptor."""

    def __init__(self, graph_file, stdin, *arguments, log=None):
        self.log = open(log or f"{graph_file}.log", "ab")
        self.process = subprocess.Popen([BIN / "orchestrator", "run", str(graph_file), *map(str, arguments)], stdin=stdin, stdout=self.log,
                                        stderr=self.log, start_new_session=True)


def drip(source, to, parts=40, seconds=4.0, keep_open=None):
    """Write a file into a descriptor slowly, in a thread; closes it, unless `keep_open` is an event: then when that is set."""
    data = source.read_bytes()

    def work():
        size = len(data) // parts + 1
        try:
            for i in range(0, len(data), size):
                os.write(to, data[i : i + size])
                time.sleep(seconds / parts)
            if keep_open:
                keep_open.wait(60)
        except BrokenPipeError:
            pass
        os.close(to)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def a_pipe_gives_the_bytes_of_a_file(folder):
    """Standard input, a FIFO, more than one replica, tcp, and lengths on and off the chunks and windows."""
    model = narrow_model(folder / "model")
    for frames in (1, 8, 15, 57):
        source = make_source(folder, frames)
        run(graph(folder, "file", source, model), "--fresh")
        with open(source, "rb") as stdin:
            live = LiveRun(graph(folder, f"stdin{frames}", "-", model), stdin)
            assert live.wait() == 0, live.text()
        assert sha256(folder / "file.mp4") == sha256(folder / f"stdin{frames}.mp4"), frames
    for name, options in {"tcp": {"replicas": 2, "transport": "tcp"}}.items():
        cat = subprocess.Popen(["cat", source], stdout=subprocess.PIPE)
        live = LiveRun(graph(folder, name, "-", model, **options), cat.stdout)
        cat.stdout.close()
        assert live.wait() == 0, live.text()
        cat.wait()
        assert sha256(folder / "file.mp4") == sha256(folder / f"{name}.mp4"), name
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    live = Run(graph(folder, "fifo-out", fifo, model))
    drip(source, os.open(fifo, os.O_WRONLY))
    assert live.wait() == 0, live.text()
    assert sha256(folder / "file.mp4") == sha256(folder / "fifo-out.mp4")


def a_finished_run_takes_no_other_stream(folder):
    """The same command on its output: what comes now would be lost, so that is an error, and nothing of it is read."""
    source, output = make_source(folder, 8), folder / "out.mp4"
    remux = folder / "remux.toml"
    remux.write_text(f'[stage.read]\nkind = "decode"\ninput = "-"\n[stage.write]\nkind = "mux"\nfrom = "read"\noutput = "{output}"\n')
    for arguments, code in (((), 0), ((), 1), (("--fresh",), 0)):
        with open(source, "rb") as stdin:
            live = LiveRun(remux, stdin, *arguments)
            assert live.wait() == code, live.text()
            assert not code or os.lseek(stdin.fileno(), 0, os.SEEK_CUR) == 0
    assert f"{output} was finished at " in live.text() and "use --fresh to start over, or another output" in live.text(), live.text()
    assert frames_of(output) == 8
    # Nor is what it had joined again where the output was removed: another stream has come.
    output.unlink()
    with open(make_source(folder, 9), "rb") as stdin:
        live = LiveRun(remux, stdin)
        assert live.wait() == 0, live.text()
    assert frames_of(output) == 9


def other_containers(folder):
    """Matroska and fragmented mp4 from a pipe; the same frames, at the same times."""
    model = narrow_model(folder / "model")
    for ending, more in {"mkv": ["-r", "24"], "mp4": ["-movflags", "+frag_keyframe+empty_moov"]}.items():
        source = folder / f"in.{ending}"
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25", "-frames:v", 50, "-c:v", "libx264", "-bf", "2", *more, source)
        run(graph(folder, f"file-{ending}", source, model))
        with open(source, "rb") as stdin:
            live = LiveRun(graph(folder, f"live-{ending}", "-", model), stdin)
            assert live.wait() == 0, live.text()
        assert sha256(folder / f"file-{ending}.mp4") == sha256(folder / f"live-{ending}.mp4"), ending


def a_clock_that_starts_again(folder):
    """A sender that restarts: the parts follow on each other, sound too, as of a file."""
    model = narrow_model(folder / "model")
    for index, offset in enumerate((10, 3)):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24:duration=2", "-f", "lavfi", "-i", "sine=duration=2", "-c:v", "libx264", "-bf", "2",
               "-c:a", "mp2", "-output_ts_offset", offset, folder / f"{index}.ts")
    source = folder / "both.ts"
    source.write_bytes((folder / "0.ts").read_bytes() + (folder / "1.ts").read_bytes())
    run(graph(folder, "file", source, model))
    with open(source, "rb") as stdin:
        live = LiveRun(graph(folder, "live", "-", model), stdin)
        assert live.wait() == 0, live.text()
    for name in ("file", "live"):
        text = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "stream=codec_type,duration", "-of", "json", folder / f"{name}.mp4"],
                              stdout=subprocess.PIPE, check=True).stdout
        seconds = {stream["codec_type"]: float(stream["duration"]) for stream in json.loads(text)["streams"]}
        assert frames_of(folder / f"{name}.mp4") == 96, name
        assert abs(seconds["video"] - 4) < 0.1 and abs(seconds["audio"] - 4) < 0.1, (name, seconds)


def any_stage_may_die(folder):
    """kill -9 of each stage behind the source while frames still come: the same bytes."""
    model = narrow_model(folder / "model")
    source = make_source(folder, 100)
    run(graph(folder, "file", source, model))
    for program in ("stage-mux", "stage-vae_decode", "stage-vae_encode"):
        name = f"kill-{program}"
        there, here = os.pipe()
        live = LiveRun(graph(folder, name, "-", model), there)
        os.close(there)
        done = threading.Event()
        thread = drip(source, here, keep_open=done)
        wait_until(lambda: list(folder.glob(f"{name}.mp4.longtake/segments/*.mp4")) or not live.running(), 60, "a segment")
        assert live.kill_stage(random.Random(1), program), live.text()
        done.set()
        assert live.wait() == 0, live.text()
        thread.join()
        assert "started again" in live.text(), live.text()
        assert sha256(folder / "file.mp4") == sha256(folder / f"{name}.mp4"), program


def a_sink_that_dies_after_the_interrupt_is_started_again(folder):
    """Ctrl-C has ended the input, what came is in nobody's file yet, and mux is killed: another one finishes it."""
    model = narrow_model(folder / "model")
    live = Run(graph(folder, "g", "lavfi:testsrc2=size=64x64:rate=24,realtime", model, read="live = true"))
    wait_until(lambda: list(folder.glob("g.mp4.longtake/segments/*.mp4")) or not live.running(), 60, "a segment")
    mux = next(pid for pid, program in live.stages().items() if program == "stage-mux")
    os.kill(mux, signal.SIGSTOP)
    live.process.send_signal(signal.SIGINT)
    wait_until(lambda: "the input ends here" in live.text(), 20, "the interrupt")
    os.kill(mux, signal.SIGKILL)
    assert live.wait(60) == 0, live.text()
    assert "stage write started again" in live.text() and frames_of(folder / "g.mp4") > 20, live.text()


def what_is_kept_no_more_is_said(folder):
    """A consumer that needs what is gone: a sentence, and the finished segments as a file."""
    model = narrow_model(folder / "model")
    live = Run(graph(folder, "g", "lavfi:testsrc2=size=64x64:rate=24,realtime=speed=3", model, read="live = true\nkeep = 8",
                     write="segment = 200"))
    times = folder / "g.mp4.longtake" / "times.i64"
    wait_until(lambda: (times.exists() and times.stat().st_size > 8 * 290) or not live.running(), 60, "290 frames")
    wait_until(lambda: live.kill_stage(random.Random(1), "stage-mux"), 5, "mux")
    assert live.wait() == 1, live.text()
    assert "are needed again" in live.text() and "keep" in live.text(), live.text()
    assert "holds what came" in live.text(), live.text()
    assert frames_of(folder / "g.mp4") >= 200


def the_source_may_die(folder):
    """No run without it, but a file of what came."""
    model = narrow_model(folder / "model")
    live = Run(graph(folder, "g", "lavfi:testsrc2=size=64x64:rate=24,realtime=speed=2", model, read="live = true"))
    wait_until(lambda: list(folder.glob("g.mp4.longtake/segments/00000.mp4")) or not live.running(), 60, "a segment")
    assert live.kill_stage(random.Random(1), "stage-decode")
    assert live.wait() == 1, live.text()
    assert "a live input cannot be read again" in live.text() and "holds what came" in live.text(), live.text()
    assert frames_of(folder / "g.mp4") >= 20


def ctrl_c_finishes_the_file(folder):
    """The first ends the input and finishes what came; the second stops at once."""
    model = narrow_model(folder / "model")
    endless = "lavfi:testsrc2=size=64x64:rate=24,realtime=speed=2"
    live = Run(graph(folder, "once", endless, model, read="live = true"))
    wait_until(lambda: list(folder.glob("once.mp4.longtake/segments/00000.mp4")) or not live.running(), 60, "a segment")
    live.process.send_signal(signal.SIGINT)
    assert live.wait() == 0, live.text()
    frames = frames_of(folder / "once.mp4")
    assert frames > 20, frames
    run(graph(folder, "again", f"lavfi:testsrc2=size=64x64:rate=24:duration={frames / 24 - 0.01}", model))
    assert sha256(folder / "once.mp4") == sha256(folder / "again.mp4"), "the frames that came are not those of a file"
    # A pipe on which nothing comes does not hold it up.
    there, here = os.pipe()
    live = LiveRun(graph(folder, "silent", "-", model), there)
    os.close(there)
    thread = drip(make_source(folder, 100), here, seconds=1, keep_open=(event := threading.Event()))
    wait_until(lambda: list(folder.glob("silent.mp4.longtake/segments/00000.mp4")) or not live.running(), 60, "a segment")
    live.process.send_signal(signal.SIGINT)
    assert live.wait(60) == 0, live.text()
    assert 20 < frames_of(folder / "silent.mp4") <= 100
    event.set()
    thread.join()
    live = Run(graph(folder, "twice", endless, model, read="live = true"))
    wait_until(lambda: list(folder.glob("twice.mp4.longtake/segments/00000.mp4")) or not live.running(), 60, "a segment")
    live.process.send_signal(signal.SIGINT)
    wait_until(lambda: "press Ctrl-C again" in live.text(), 10, "the first to be taken")
    live.process.send_signal(signal.SIGINT)
    assert live.wait(20) in (0, 130), live.text()


def a_server_that_cannot_seek(folder):
    model = narrow_model(folder / "model")
    data = make_source(folder, 57).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.ts"
    text = run(graph(folder, "seek", url, model), expect=1)
    assert "live = true" in text, text
    run(graph(folder, "live", url, model, read="live = true"))
    run(graph(folder, "file", folder / "in.ts", model))
    assert sha256(folder / "live.mp4") == sha256(folder / "file.mp4")
    server.shutdown()


def selections(folder):
    """start, frames and interval are as those of a file; what needs the length is refused."""
    model = narrow_model(folder / "model")
    source = make_source(folder, 60)
    for name, read in {"a": "start = 0.5\nframes = 30", "b": "interval = 3"}.items():
        run(graph(folder, f"file-{name}", source, model, read=read))
        with open(source, "rb") as stdin:
            live = LiveRun(graph(folder, f"live-{name}", "-", model, read=read), stdin)
            assert live.wait() == 0, live.text()
        assert frames_of(folder / f"file-{name}.mp4") == frames_of(folder / f"live-{name}.mp4"), name
        one, other = (subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-i", folder / f"{kind}-{name}.mp4", "-f", "framemd5", "-"],
                                     stdout=subprocess.PIPE, check=True).stdout for kind in ("file", "live"))
        assert one.splitlines()[-1].split(b",")[-1] == other.splitlines()[-1].split(b",")[-1] or name == "b", name
    for read, word in {"fps = 12": "fps", "frames = 99\nshort = 'pad'": "short"}.items():
        with open(source, "rb") as stdin:
            live = LiveRun(graph(folder, f"no-{word}", "-", model, read=read), stdin)
            assert live.wait() == 1 and word in live.text() and "length" in live.text(), live.text()


def nothing_and_nonsense(folder):
    model = narrow_model(folder / "model")
    with open("/dev/null", "rb") as stdin:
        live = LiveRun(graph(folder, "nothing", "-", model), stdin)
        assert live.wait() == 1 and "-: nothing came" in live.text(), live.text()
    (folder / "noise").write_bytes(random.Random(1).randbytes(100000))
    with open(folder / "noise", "rb") as stdin:
        live = LiveRun(graph(folder, "noise", "-", model), stdin)
        assert live.wait() == 1 and "no video" in live.text() or "Invalid" in live.text(), live.text()


def pictures_of_a_live_input(folder):
    source = make_source(folder, 20)
    (folder / "g.toml").write_text(f"""
[stage.read]
kind = "decode"
input = "-"
[stage.write]
kind = "mux"
from = "read"
output = "{folder}/p/%03d.png"
""")
    with open(source, "rb") as stdin:
        live = LiveRun(folder / "g.toml", stdin)
        assert live.wait() == 0, live.text()
    assert sorted(path.name for path in (folder / "p").glob("*.png")) == [f"{i:03d}.png" for i in range(1, 21)]


def remux(folder, name, source, output):
    (folder / f"{name}.toml").write_text(f"""
[stage.read]
kind = "decode"
input = "{source}"
[stage.write]
kind = "mux"
from = "read"
output = "{folder}/{output}"
""")
    return folder / f"{name}.toml"


# ---- sound


def with_sound(folder, ending="ts", seconds=4, codec="ac3"):
    """Pictures, two tracks of sound of unlike rates that begin at unlike times, and, where the container has them, subtitles."""
    source, text = folder / f"sound.{ending}", folder / "text.srt"
    text.write_text("".join(f"{i}\n00:00:0{i},100 --> 00:00:0{i},900\nline {i}\n\n" for i in range(1, seconds)))
    more = ["-i", text, "-map", "3", "-c:s", "srt"] if ending == "mkv" else []
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=64x64:rate=24:duration={seconds}", "-f", "lavfi", "-i", f"sine=sample_rate=48000:duration={seconds}",
           "-itsoffset", "0.3", "-f", "lavfi", "-i", f"sine=frequency=880:sample_rate=44100:duration={seconds - 1}", *more[:2],
           "-map", "0", "-map", "1", "-map", "2", *more[2:], "-c:v", "libx264", "-g", "12", "-bf", "2", "-c:a:0", "mp2", "-c:a:1", codec, source)
    return source


def packets(path, streams="a"):
    """[(stream, time in seconds to 1/10 ms, hash)] of the packets of some streams."""
    text = subprocess.run(["ffprobe", "-v", "error", "-show_packets", "-select_streams", streams, "-show_entries", "packet=stream_index,pts_time,data_hash",
                           "-show_data_hash", "md5", "-of", "json", path], stdout=subprocess.PIPE, check=True).stdout
    return [(packet["stream_index"], round(float(packet["pts_time"]), 4), packet["data_hash"]) for packet in json.loads(text)["packets"]]


def start_of(path):
    return min(float(packets(path, kind)[0][1]) for kind in ("v", "a"))


def sound_is_that_of_a_file(folder):
    """Byte for byte, from a pipe, whole and cut at the start; and, but for the headers that AAC has in a transport stream alone, the bytes that were sent."""
    for ending, codec, read in (("ts", "aac", ""), ("mkv", "aac", ""), ("ts", "ac3", "start = 1.3")):
        source = with_sound(folder, ending, codec=codec)
        outputs = []
        for name, text in (("file", source), ("live", "-")):
            graph_file = remux(folder, name, text, f"{name}.mkv")
            graph_file.write_text(graph_file.read_text().replace('kind = "decode"', f'kind = "decode"\n{read}'))
            with open(source, "rb") as stdin:
                going = LiveRun(graph_file, stdin, "--fresh")
                assert going.wait() == 0, going.text()
            outputs.append(folder / f"{name}.mkv")
        assert sha256(outputs[0]) == sha256(outputs[1]), (ending, read)
        heard, sent, origin = packets(outputs[1], "a"), packets(source, "a"), start_of(source)
        assert read or len(heard) == len(sent), (len(heard), len(sent))
        if ending == "mkv":
            assert [(at, data) for _, at, data in heard] == [(round(at - origin, 4), data) for _, at, data in sent]
            assert len(packets(outputs[1], "s")) == 3
    # What is asked not to come does not.
    graph_file.write_text(graph_file.read_text().replace(read, 'audio = "none"'))
    with open(source, "rb") as stdin:
        going = LiveRun(graph_file, stdin, "--fresh")
        assert going.wait() == 0, going.text()
    assert not packets(outputs[1], "a")


def sound_until_it_ends(folder):
    """Ctrl-C, and the death of who reads: what is heard is the beginning of what was sent, at its time, up to where pictures end."""
    source = with_sound(folder, seconds=8)
    sent, origin = packets(source), start_of(source)
    for how in ("ctrl-c", "kill"):
        there, here = os.pipe()
        graph_file = remux(folder, how, "-", f"{how}.mkv")
        graph_file.write_text(graph_file.read_text() + "segment = 20\n")
        live = LiveRun(graph_file, there)
        os.close(there)
        done = threading.Event()
        thread = drip(source, here, seconds=3, keep_open=done)
        segments = folder / f"{how}.mkv.longtake" / "segments"
        wait_until(lambda: len(list(segments.glob("*.mp4"))) > 2 or not live.running(), 60, "60 frames")
        if how == "ctrl-c":
            live.process.send_signal(signal.SIGINT)
        else:
            assert live.kill_stage(random.Random(1), "stage-decode"), live.text()
        assert live.wait() == (how == "kill"), live.text()
        done.set()
        thread.join()
        heard, seen = packets(folder / f"{how}.mkv"), frames_of(folder / f"{how}.mkv") / 24
        assert seen > 2.4, seen
        for stream in {stream for stream, _, _ in sent}:
            ours = [(at, data) for s, at, data in heard if s == stream]
            theirs = [(at - origin, data) for s, at, data in sent if s == stream][: len(ours)]
            assert [data for _, data in ours] == [data for _, data in theirs], how
            assert max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs)) < 0.001, how
            assert ours[-1][0] > seen - 1.5, (how, ours[-1][0], seen)


def memory_stays_constant_with_sound(folder):
    there, here = os.pipe()
    source = subprocess.Popen(["ffmpeg", "-nostdin", "-loglevel", "quiet", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-f", "lavfi", "-i",
                               "sine=sample_rate=48000", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "mp2", "-b:a", "384k", "-f", "mpegts", "-"],
                              stdout=here)
    os.close(here)
    live = LiveRun(remux(folder, "g", "-", "g.mkv"), there)
    os.close(there)
    segments = folder / "g.mkv.longtake" / "segments"
    taken = []
    for n in (20, 60):
        wait_until(lambda: len(list(segments.glob("*.mp4"))) > n or not live.running(), 100, f"{n} segments")
        taken.append(max(resident(pid) for pid, program in stage_pids(live.pid).items() if program == "stage-decode"))
    live.process.send_signal(signal.SIGINT)
    assert live.wait() == 0, live.text()
    source.kill()
    source.wait()
    print(f"  stage-decode: {taken[0]} KiB after 80 s of film, {taken[1]} after 240, {len(packets(folder / 'g.mkv'))} packets of sound")
    assert taken[1] < 1.05 * taken[0] + 512, taken


def a_stream_that_begins_in_the_middle(folder):
    """A transport stream cut before its second key frame: the frames before that are left out, of a file and of a pipe."""
    whole, cut = make_source(folder, 96), folder / "cut.ts"
    cut.write_bytes(whole.read_bytes()[20000:])
    run(remux(folder, "file", cut, "file.mp4"))
    with open(cut, "rb") as stdin:
        live = LiveRun(remux(folder, "live", "-", "live.mp4"), stdin)
        assert live.wait() == 0, live.text()
    assert 0 < frames_of(folder / "file.mp4") < 96
    assert sha256(folder / "file.mp4") == sha256(folder / "live.mp4")


def tags_of_deep_colour_stay(folder):
    source = folder / "hdr.ts"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24:duration=1", "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", "log-level=error",
           "-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", source)
    with open(source, "rb") as stdin:
        live = LiveRun(remux(folder, "live", "-", "live.mp4"), stdin)
        assert live.wait() == 0, live.text()
    text = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "stream=pix_fmt,color_primaries,color_transfer,color_space", "-of", "json",
                           folder / "live.mp4"], stdout=subprocess.PIPE, check=True).stdout
    stream = json.loads(text)["streams"][0]
    assert stream == {"pix_fmt": "yuv420p10le", "color_space": "bt2020nc", "color_transfer": "smpte2084", "color_primaries": "bt2020"}, stream


def a_plan_says_what_is_not_known(folder):
    model = narrow_model(folder / "model")
    source = make_source(folder, 20)
    with open(source, "rb") as stdin:
        text = subprocess.run([BIN / "orchestrator", "plan", graph(folder, "g", "-", model)], stdin=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT).stdout.decode()
    assert "length is not known" in text and "cannot be resumed" in text and "TFLOP" in text, text
    assert "time: about" not in text, text


def the_example_runs(folder):
    source = make_source(folder, 20, "mkv")
    with open(source, "rb") as stdin:
        live = LiveRun(ROOT / "examples" / "live.toml", stdin, "--set", "stage.read.size=64x64", "--set", f"stage.write.output={folder}/out.mp4",
                       log=folder / "log")
        assert live.wait() == 0, live.text()
    assert frames_of(folder / "out.mp4") == 20


def resident(pid):
    """KiB of memory that is a process's own or shared."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def memory_stays_constant(folder):
    """An endless input: what stages hold does not grow."""
    model = narrow_model(folder / "model")
    live = Run(graph(folder, "g", "lavfi:testsrc2=size=64x64:rate=24", model, read="live = true\nkeep = 128"))

    def by_program():
        return {program: resident(pid) for pid, program in stage_pids(live.pid).items()}

    wait_until(lambda: len(list(folder.glob("g.mp4.longtake/segments/*.mp4"))) > 10 or not live.running(), 100, "200 frames")
    early = by_program()
    wait_until(lambda: len(list(folder.glob("g.mp4.longtake/segments/*.mp4"))) > 30 or not live.running(), 200, "600 frames")
    late = by_program()
    live.process.send_signal(signal.SIGINT)
    assert live.wait() == 0, live.text()
    for program, kib in late.items():
        print(f"  {program}: {early[program]} KiB after 200 frames, {kib} after 600")
        assert kib < 1.05 * early[program] + 512, program
    assert frames_of(folder / "g.mp4") > 600


if __name__ == "__main__":
    need_model()
    main([a_pipe_gives_the_bytes_of_a_file, a_finished_run_takes_no_other_stream, other_containers, a_clock_that_starts_again, any_stage_may_die, what_is_kept_no_more_is_said, the_source_may_die, a_sink_that_dies_after_the_interrupt_is_started_again,
          ctrl_c_finishes_the_file, a_server_that_cannot_seek, selections, nothing_and_nonsense, pictures_of_a_live_input, a_stream_that_begins_in_the_middle, tags_of_deep_colour_stay,
          sound_is_that_of_a_file, sound_until_it_ends, a_plan_says_what_is_not_known, the_example_runs, memory_stays_constant,
          memory_stays_constant_with_sound])
