"""Bad input of every kind: a clear sentence, the right exit code, nothing lost.

    tests/faults/bad_input.py [NAME...]

Exit codes of the orchestrator: 1 the run failed, 2 usage or graph wrong.
"""

import ctypes
import ctypes.util
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from harness import MODEL, WEIGHTS, Run, main, need_model, run, sha256, wait_until, write_graph  # noqa: E402

SOURCE = "lavfi:testsrc2=size=96x64:rate=24:duration=2"


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def refused(graph, sentence, *arguments, code=1):
    """The run ends with `code` and says `sentence` (any of them, when a tuple)."""
    text = run(graph, *arguments, expect=code, timeout=60)
    wanted = sentence if isinstance(sentence, tuple) else (sentence,)
    assert any(part.lower() in text.lower() for part in wanted), f"none of {wanted} in:\n{text}"
    assert "Segmentation" not in text and "Assertion" not in text, text
    return text


def graph_of(folder, source=SOURCE, name="graph", **more):
    return write_graph(folder / f"{name}.toml", source, folder / f"{name}.mp4", **more)


# ---- video ---------------------------------------------------------------------------------------------------


def missing_video(folder):
    """The graph file is right, and the same command works once the file is there: 1, not 2."""
    refused(graph_of(folder, folder / "nowhere.mp4"), "nowhere.mp4")


def empty_video(folder):
    (folder / "empty.mp4").write_bytes(b"")
    refused(graph_of(folder, folder / "empty.mp4"), "empty.mp4")


def not_a_video(folder):
    (folder / "noise.mp4").write_bytes(random.Random(1).randbytes(100000))
    refused(graph_of(folder, folder / "noise.mp4"), "noise.mp4")


def truncated_video(folder):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24:duration=4", "-c:v", "libx264", folder / "whole.mp4")
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    refused(graph_of(folder, folder / "cut.mp4"), "cut.mp4")


def truncated_stream(folder):
    """A file whose index is in front promises frames that are not there any more."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24:duration=4", "-c:v", "libx264", "-movflags", "+faststart", folder / "w.mp4")
    whole = (folder / "w.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    refused(graph_of(folder, folder / "cut.mp4"), "cut.mp4")


def audio_only(folder):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.mp4")
    refused(graph_of(folder, folder / "sound.mp4"), "no video")


def resolution_changes(folder):
    for index, size in enumerate(("96x64", "128x96")):
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=24:duration=1", "-c:v", "mpeg2video", "-f", "mpegts", folder / f"{index}.ts")
    (folder / "both.ts").write_bytes((folder / "0.ts").read_bytes() + (folder / "1.ts").read_bytes())
    refused(graph_of(folder, folder / "both.ts"), ("size", "resolution"))


# ---- weights -----------------------------------------------------------------------------------------------------


def model_copy(folder, change):
    """A copy of the tiny model, `change(header, data)` -> header, data applied to its weights."""
    model = folder / "model"
    shutil.copytree(MODEL, model)
    raw = (model / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = change(json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (model / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return model


def refused_model(folder, change, *sentences, code=1):
    model = model_copy(folder, change)
    graph = graph_of(folder)
    text = refused(graph, sentences[0], "--set", f"stage.vae_encode.model={model}", "--set", f"stage.vae_decode.model={model}", code=code)
    for sentence in sentences[1:]:
        assert sentence in text, f"{sentence} is not named in:\n{text}"


def first_tensor(header):
    return sorted(name for name in header if name != "__metadata__" and name.startswith("encoder."))[0]


def lying_header(folder):
    model = folder / "model"
    shutil.copytree(MODEL, model)
    raw = bytearray((model / WEIGHTS).read_bytes())
    raw[:8] = struct.pack("<Q", 1 << 40)
    (model / WEIGHTS).write_bytes(raw)
    refused(graph_of(folder), "header", "--set", f"stage.vae_encode.model={model}")


def overlapping_offsets(folder):
    def change(header, data):
        names = [name for name in header if name != "__metadata__"]
        header[names[1]]["data_offsets"] = [header[names[1]]["data_offsets"][0] - 2, header[names[1]]["data_offsets"][1] - 2]
        return header, data

    refused_model(folder, change, ("overlap", "hole", "offsets"))


def missing_tensors(folder):
    gone = []

    def change(header, data):
        for name in ("encoder.conv_in.bias", "decoder.conv_in.bias"):
            header["renamed." + name] = header.pop(name)
            gone.append(name)
        return header, data

    refused_model(folder, change, "encoder.conv_in.bias", "renamed.encoder.conv_in.bias")


def misshapen_tensor(folder):
    def change(header, data):
        header["encoder.conv_in.weight"]["shape"] = header["encoder.conv_in.weight"]["shape"][::-1]
        return header, data

    refused_model(folder, change, "encoder.conv_in.weight")


def nan_weights(folder):
    def change(header, data):
        begin = header["encoder.conv_in.weight"]["data_offsets"][0]
        data[begin : begin + 2] = b"\x00\x7e"
        return header, data

    refused_model(folder, change, "encoder.conv_in.weight", "NaN")


def weights_cut_while_in_use(folder):
    """The decoder's file is cut short after it was opened; the encoder is held back so that nothing of it was used yet."""
    model = model_copy(folder, lambda header, data: (header, data))
    going = Run(graph_of(folder), "--set", f"stage.vae_decode.model={model}")

    def at_work(program, what="", of="cmdline"):
        """Processes of a stage that do not plan, and in whose /proc file `of` stands `what`."""
        found = []
        for pid, name in going.stages().items():
            try:
                planning = b"--" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
                there = what in pathlib.Path(f"/proc/{pid}/{of}").read_text()
            except OSError:  # it has ended meanwhile
                continue
            if name == program and there and not planning:
                found.append(pid)
        return found

    encoders = []
    wait_until(lambda: encoders.extend(at_work("stage-vae_encode")) or encoders, 20, "the encoder runs")
    os.kill(encoders[0], signal.SIGSTOP)
    wait_until(lambda: at_work("stage-vae_decode", str(model / WEIGHTS), "maps"), 20, "the decoder has opened its weights")
    os.truncate(model / WEIGHTS, 4096)
    os.kill(encoders[0], signal.SIGCONT)
    code, text = going.wait(60), going.text()
    assert code == 1, f"exit code {code}:\n{text}"
    assert f"{model / WEIGHTS}: cut short while it was in use" in text, text


def no_model(folder):
    refused(graph_of(folder), "nowhere", "--set", f"stage.vae_encode.model={folder}/nowhere")


# ---- graphs --------------------------------------------------------------------------------------------------------


def a_cycle(folder):
    graph = folder / "cycle.toml"
    graph.write_text(f"""
[stage.a]
kind = "vae_encode"
model = "{MODEL}"
from = "b"
[stage.b]
kind = "vae_decode"
model = "{MODEL}"
from = "a"
[stage.write]
kind = "mux"
from = "b"
output = "x.mp4"
""")
    refused(graph, "cycle", code=2)


def unknown_keys_all_at_once(folder):
    graph = graph_of(folder, read="chnuk = 4", write="segmnet = 24")
    text = refused(graph, "chunk", code=2)
    assert "segment" in text and f"{graph}:" in text, text


def wrong_kinds(folder):
    graph = folder / "kinds.toml"
    graph.write_text(f"""
[stage.read]
kind = "decode"
input = "{SOURCE}"
[stage.decode]
kind = "vae_decode"
model = "{MODEL}"
from = "read"
[stage.write]
kind = "mux"
from = "decode"
output = "x.mp4"
""")
    refused(graph, "latents", code=2)


def two_writers(folder):
    graph = graph_of(folder)
    graph.write_text(graph.read_text() + f'\n[stage.second]\nkind = "mux"\nfrom = "vae_decode"\noutput = "{folder}/graph.mp4"\n')
    refused(graph, "output", code=2)


def not_toml(folder):
    graph = folder / "graph.toml"
    graph.write_text("[stage.read\nkind = 3")
    refused(graph, "graph.toml:1", code=2)


# ---- disks, caches, runs ------------------------------------------------------------------------------------------------


def with_small_disk(folder, size, test):
    """Run test(mount point) on a file system of `size`; skipped (and said) without the right to mount."""
    mount = folder / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], stderr=subprocess.DEVNULL).returncode:
        print("skipped: no right to mount a small file system: 1 case")
        return
    try:
        test(mount)
    finally:
        subprocess.run(["umount", "-l", mount], check=False)


def fill(path):
    """Write zeros until there is no room."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(file, b"\0" * 4096):
            pass
    except OSError:
        pass
    os.close(file)


def full_disk(folder):
    """The same command goes on when there is room again."""
    source = "lavfi:testsrc2=size=96x64:rate=24:duration=6"
    options = dict(write='segment = 24\noptions = "crf=0"')
    run(graph_of(folder, source, "whole", **options))

    def test(disk):
        graph = write_graph(folder / "graph.toml", source, disk / "out.mp4", **options)
        filler = disk / "filler"
        going = Run(graph)
        wait_until(lambda: not going.running() or list(disk.glob("out.mp4.longtake/segments/*")), 60, "a segment")
        fill(filler)
        code = going.wait()
        assert code == 1 and ("space" in going.text() or "full" in going.text()), f"exit code {code}:\n{going.text()}"
        filler.unlink()
        run(graph)
        assert sha256(disk / "out.mp4") == sha256(folder / "whole.mp4")

    with_small_disk(folder, "3m", test)


def read_only_cache(folder):
    def test(disk):
        run(write_graph(folder / "a.toml", SOURCE, folder / "a.mp4", cache=disk / "cache"))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        graph = write_graph(folder / "b.toml", "lavfi:testsrc=size=96x64:rate=24:duration=2", folder / "b.mp4", cache=disk / "cache")
        refused(graph, ("read-only", "permission"))

    with_small_disk(folder, "64m", test)


def a_second_run(folder):
    graph = graph_of(folder, "lavfi:testsrc2=size=96x64:rate=24:duration=20")
    going = Run(graph)
    wait_until(lambda: len(going.stages()) == 4, 30, "four stages")
    refused(graph, "another run")
    going.kill_stage(random.Random(1))
    assert going.wait() == 0, going.text()


def garbage_on_sockets(folder):
    """Bytes that are no ZeroMQ, and ZeroMQ messages that are no Longtake, leave a run as it was."""
    source = "lavfi:testsrc2=size=96x64:rate=24:duration=6"
    run(graph_of(folder, source, "quiet"))
    rng = random.Random(7)
    for transport in ("auto", "tcp"):
        graph = write_graph(folder / f"{transport}.toml", source, folder / f"{transport}.mp4", transport=transport)
        going = Run(graph)
        wait_until(lambda: len(going.stages()) == 4, 30, "four stages")
        hits = 0
        while going.running():
            for endpoint in endpoints(going):
                hits += send_raw(endpoint, rng) + send_zmq(endpoint, rng)
            time.sleep(0.05)
        assert going.wait() == 0, going.text()
        assert hits > 0, "no socket was found to throw at"
        assert sha256(folder / f"{transport}.mp4") == sha256(folder / "quiet.mp4")


def endpoints(going):
    """What the stages of a run listen on, as ZeroMQ endpoints."""
    inodes = set()
    for pid in going.stages():
        try:
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    found = []
    for line in open("/proc/net/unix").read().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[6] in inodes and fields[3] == "00010000" and fields[7].startswith("/"):
            found.append(f"ipc://{fields[7]}")
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.append(f"tcp://127.0.0.1:{int(fields[1].split(':')[1], 16)}")
    return found


def send_raw(endpoint, rng):
    try:
        if endpoint.startswith("ipc"):
            peer = socket.socket(socket.AF_UNIX)
            peer.settimeout(0.2)
            peer.connect(endpoint[6:])
        else:
            peer = socket.create_connection(("127.0.0.1", int(endpoint.rsplit(":", 1)[1])), 0.2)
        peer.sendall(rng.randbytes(rng.randrange(1, 5000)))
        peer.close()
        return 1
    except OSError:
        return 0


def send_zmq(endpoint, rng):
    """A few well-framed ZeroMQ messages of noise, from a DEALER."""
    library = ctypes.util.find_library("zmq")
    if not library:
        return 0
    zmq = ctypes.CDLL(library)
    for function in (zmq.zmq_ctx_new, zmq.zmq_socket):
        function.restype = ctypes.c_void_p
    context = ctypes.c_void_p(zmq.zmq_ctx_new())
    dealer = ctypes.c_void_p(zmq.zmq_socket(context, 5))
    linger = ctypes.c_int(50)
    zmq.zmq_setsockopt(dealer, 17, ctypes.byref(linger), 4)
    zmq.zmq_connect(dealer, endpoint.encode())
    for _ in range(5):
        noise = rng.randbytes(rng.choice((0, 1, 7, 100, 3000)))
        zmq.zmq_send(dealer, noise, len(noise), 1)
    zmq.zmq_close(dealer)
    zmq.zmq_ctx_term(context)
    return 1


if __name__ == "__main__":
    need_model()
    main([missing_video, empty_video, not_a_video, truncated_video, truncated_stream, audio_only, resolution_changes, lying_header,
          overlapping_offsets, missing_tensors, misshapen_tensor, nan_weights, weights_cut_while_in_use, no_model, a_cycle, unknown_keys_all_at_once, wrong_kinds,
          two_writers, not_toml, full_disk, read_only_cache, a_second_run, garbage_on_sockets])
