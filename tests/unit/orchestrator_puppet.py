#!/usr/bin/env python3
"""A stage that only pretends: it speaks the control protocol, moves no data, and misbehaves when told to.

Installed as stage-puppet_source, stage-puppet_filter and stage-puppet_sink. Written without the stage runtime on purpose, so that the
orchestrator is tested against the protocol and not against our own other half.
"""

import json
import os
import select
import signal
import struct
import sys
import time

KIND = os.path.basename(sys.argv[0]).removeprefix("stage-")
HAS_INPUT, HAS_OUTPUT = KIND != "puppet_source", KIND != "puppet_sink"


def option(name, type, default, help, **more):
    return {"name": name, "type": type, "default": default, "help": help, **more}


OPTIONS = [
    option("units", "integer", "10", "units of the clip", min=1, max=100000, unit="units"),
    option("unit_ms", "integer", "20", "time a unit takes", min=0, max=100000, unit="ms", cosmetic=True),
    option("fault", "choice", "none", "what goes wrong", cosmetic=True,
           choices=["none", "segv", "kill", "exit100", "exit101", "exit111", "exit7", "failed", "garbage", "silent"]),
    option("at", "integer", "3", "unit at which it goes wrong", min=0, max=100000, cosmetic=True),
    option("times", "integer", "1000000", "how often it goes wrong", min=0, max=1000000, cosmetic=True),
    option("end", "choice", "none", "how it leaves when all is done; failed: at once", choices=["none", "exit7", "exit8", "segv", "kill", "failed"], cosmetic=True),
    option("stubborn", "boolean", "false", "ignore Stop and SIGTERM", cosmetic=True),
    option("tile", "string", "auto", "resolved by the plan"),
    option("disk", "bytes", "0", "disk space asked for", cosmetic=True),
    option("refuse", "string", "", "sentence with which the plan is refused", cosmetic=True),
    option("refuse_status", "integer", "6", "the status of that: 3 invalid, 6 not found", min=3, max=18, cosmetic=True),
    option("contradiction", "string", "", "sentence with which the options are refused", cosmetic=True),
    option("gflop", "number", "0", "work of the clip", min=0, max=1e9, cosmetic=True),
    option("numeric_class", "string", "", "said when ready; %r stands for the replica", cosmetic=True),
]
if KIND == "puppet_source":
    OPTIONS.append(option("input", "path", "", "file whose size decides the digest"))
if KIND == "puppet_sink":
    OPTIONS.append(option("output", "path", None, "file that is written", cosmetic=True))
if KIND == "puppet_filter":
    OPTIONS.append(option("memory", "bytes", "1G", "bound of memory"))
    OPTIONS.append(option("size", "size", "", "of the pictures"))
    OPTIONS.append(option("codec_options", "dictionary", "", "of the codec"))

# ---- protobuf, as much as is needed ----------------------------------------------------------------------------


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, str):
        value = os.fsencode(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(data):
    """[(number, value)] of a message."""
    at, found = 0, []

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            found.append((key >> 3, number()))
        elif key & 7 == 1:
            found.append((key >> 3, data[at : at + 8]))
            at += 8
        else:
            size = number()
            found.append((key >> 3, data[at : at + size]))
            at += size
    return found


def options_of(message, number):
    given = {o["name"]: o["default"] for o in OPTIONS}
    for key, value in message:
        if key == number:
            parts = dict(fields(value))
            given[parts[1].decode()] = os.fsdecode(parts.get(2, b""))
    return given


def read_exactly(n):
    data = b""
    while len(data) < n:
        piece = os.read(0, n - len(data))
        if not piece:
            sys.exit(111)
        data += piece
    return data


def read_frame():
    return fields(read_exactly(struct.unpack("<I", read_exactly(4))[0]))


def write_frame(message):
    os.write(1, struct.pack("<I", len(message)) + message)


# ---- plan --------------------------------------------------------------------------------------------------------


def stream(units, digest):
    """units chunks of 8 frames of 64x48 RGB, 24 a second."""
    n = units * 8
    return (field(1, 1) + field(2, 5) + field(3, 64) + field(4, 48) + field(5, 3) + field(6, 8) + field(7, 8) + field(8, n) + field(9, units) +
            field(10, 8 * 64 * 48 * 3) + field(11, 1) + field(12, 24) + field(13, b"\0" + b"\2" * (n - 1)) + field(14, 1) + field(19, "clip") +
            field(23, digest))


def plan():
    given = options_of(read_frame(), 1)
    if given["refuse"]:
        write_frame(field(1, int(given["refuse_status"])) + field(2, given["refuse"]))
        return
    size = os.path.getsize(given["input"]) if given.get("input") else 0
    reply = b""
    if HAS_OUTPUT:
        reply += field(3, field(1, "frames") + field(2, stream(int(given["units"]), f"{size:032x}")))
    if given["tile"] == "auto":
        reply += field(4, field(1, "tile") + field(2, f"{os.getpid()}"))
    reply += field(5, 50 << 20) + field(6, int(given["disk"])) + field(7, float(given["gflop"]) * 1e9) + field(8, 1.0)
    if HAS_INPUT:
        reply += field(9, field(1, "frames") + field(2, 3))
    write_frame(reply + field(10, f"tile {given['tile']}"))


# ---- run ---------------------------------------------------------------------------------------------------------


class Stage:
    def __init__(self):
        boot = fields(dict(read_frame())[1])
        self.given = options_of(boot, 6)
        first = {key: value for key, value in reversed(boot)}
        self.stage, self.replica = first[2].decode(), first.get(3, 0)
        self.folder = os.fsdecode(first[8])
        self.binds = [dict(fields(value)).get(7, b"").decode() for key, value in boot if key == 12]
        self.peers = {}
        for key, value in boot:
            if key == 15:
                self.note_peer(value)
        self.done = 0
        self.stopping = False
        self.counter = f"{self.folder}/{self.stage}.{self.replica}"
        if self.given["stubborn"] == "true":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def note_peer(self, data):
        peer = dict(fields(data))
        self.peers[peer[1].decode(), peer.get(2, 0)] = peer.get(3, 0)
        with open(f"{self.folder}/{self.stage}.{self.replica}.peers", "a") as file:
            file.write(f"{peer[1].decode()} {peer.get(2, 0)} {peer.get(3, 0)} {peer.get(4, b'').decode()}\n")

    def remember(self, what, number=None):
        """A number that survives this process."""
        path = f"{self.counter}.{what}"
        if number is None:
            return int(open(path).read()) if os.path.exists(path) else 0
        with open(path + ".new", "w") as file:
            file.write(str(number))
        os.rename(path + ".new", path)

    def progress(self, idle=False):
        first, total = self.remember("first"), int(self.given["units"])
        frames = (self.done if HAS_OUTPUT else first + self.done) * 8
        write_frame(field(3, field(2, self.done) + field(3, frames) + field(4, total * 8) + field(10, idle) + field(14, self.done * 8 if HAS_OUTPUT else 0)))

    def take(self, seconds):
        """Messages for so long; False when this process should end."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            ready = select.select([0], [], [], max(left, 0))[0]
            if not ready:
                return True
            for key, value in read_frame():
                if key == 2:
                    self.note_peer(value)
                if key == 3 and self.given["stubborn"] != "true":
                    if not dict(fields(value)).get(1, 0):
                        return False
                    self.stopping = True
            if left <= 0:
                return True

    def misbehave(self, unit):
        happened = self.remember("faults")
        if unit != int(self.given["at"]) or happened >= int(self.given["times"]):
            return
        self.remember("faults", happened + 1)
        fault = self.given["fault"]
        if fault == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.startswith("exit"):
            print(f"about to leave with {fault}", file=sys.stderr, flush=True)
            os._exit(int(fault[4:]))
        elif fault == "failed":
            write_frame(field(4, field(1, 11) + field(2, "the disk is full of sand") + field(3, True) + field(5, unit)))
            os._exit(100)
        elif fault == "garbage":
            os.write(1, b"this is no message at all, it is a sentence on standard output\n")
            time.sleep(60)
        elif fault == "silent":
            time.sleep(3600)

    def work(self):
        """Units from where the last incarnation was."""
        first = self.remember("units")
        self.remember("first", first)
        if first and not self.take(0.2):  # finding what an earlier run has made takes a moment
            return False
        self.progress()
        for unit in range(first, int(self.given["units"])):
            write_frame(field(2, field(2, unit)))
            if not self.take(int(self.given["unit_ms"]) / 1000):
                return False
            self.misbehave(unit)
            self.done += 1
            self.remember("units", unit + 1)
            with open(f"{self.counter}.made", "a") as file:
                file.write(f"{unit}\n")
            self.progress()
            if self.stopping:
                return True
        return True

    def run(self):
        bound = b"".join(field(1, field(1, "frames") + field(2, bind.replace("*", "5"))) for bind in self.binds)
        write_frame(field(1, bound + field(2, self.given["numeric_class"].replace("%r", str(self.replica)))))
        if not self.work():
            self.leave()
            return
        if not HAS_OUTPUT:
            if not self.stopping:
                with open(self.given["output"].replace("{clip}", "clip"), "w") as file:
                    file.write(f"{self.given['units']} units\n")
            write_frame(field(5, field(1, self.stopping) + field(2, self.given["output"])))
        while self.given["end"] != "failed" and self.take(0.2):
            self.progress(idle=True)
        self.leave()

    def leave(self):
        end = self.given["end"]
        if end == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif end == "exit7":
            print("SUMMARY: 24 bytes leaked", file=sys.stderr, flush=True)
            os._exit(7)
        elif end == "exit8":
            os._exit(8)
        elif end == "failed":
            write_frame(field(4, field(1, 11) + field(2, "the device did not close")))
            os._exit(101)


if sys.argv[1:] == ["--describe"]:
    port = [{"name": "frames", "kinds": ["frames"], "help": "pictures"}]
    print(json.dumps({"kind": KIND, "help": "Pretends.", "replicable": KIND == "puppet_filter", "checks": KIND == "puppet_filter", "inputs": port if HAS_INPUT else [],
                      "outputs": port if HAS_OUTPUT else [], "options": OPTIONS}))
elif sys.argv[1:] == ["--check"]:
    given = options_of(read_frame(), 1)
    write_frame(field(1, 3) + field(2, given["contradiction"]) if given["contradiction"] else b"")
elif sys.argv[1:] == ["--plan"]:
    plan()
else:
    Stage().run()
