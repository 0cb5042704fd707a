"""Any number of kills: run after run, world after world, until so many processes have died; see kills.py.

A moment of a kill is "start" (the process has just begun), "open" (it has just got ready and opens its first clip), "work", or
"finish" (all but the last segment or clip is there, or a tenth of the texts). The kind whose turn it is is the one that has died least. A killed
orchestrator is started again with the same command.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import signal
import threading
import time

import text_to_video as text
from harness import Folder, Run, run, wait_until
from kill_worlds import WORLDS, contents

ORCHESTRATOR = "orchestrator"
EARLY = ("start", "start", "open", "open", "work")  # both of the first often kill at work, too


class Victim:
    """A run that is killed, process by process, and started again where its orchestrator was."""

    def __init__(self, job, rng, log):
        self.job, self.rng, self.log = job, rng, log
        self.kinds = job.kinds()
        self.kills = []
        self.start()

    def start(self):
        self.offset = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        self.ready, self.began = {}, time.monotonic()
        self.going = Run(self.job.graph, "--json", *self.job.arguments, log=self.log)

    def running(self):
        return self.going.running()

    def read_events(self):
        """How often a process of each kind has got ready since the orchestrator began."""
        with open(self.log, "rb") as file:
            file.seek(self.offset)
            whole, _, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + bool(whole)
        for line in whole.splitlines():
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("event") == "ready":
                kind = self.kinds[event["stage"]]
                self.ready[kind] = self.ready.get(kind, 0) + 1

    def pids(self, kind):
        return sorted(pid for pid, program in self.going.stages().items() if program == f"stage-{kind}")

    def kill(self, kind, moment, pid=None):
        """Kill one process of the kind; whether there was one."""
        if kind == ORCHESTRATOR:
            return self.kill_orchestrator(moment)
        pids = [pid] if pid else self.pids(kind)
        if not pids:
            return False
        try:
            os.kill(self.rng.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills.append((kind, moment))
        return True

    def kill_orchestrator(self, moment):
        stages = self.going.stages()
        if not self.running():
            return False
        os.kill(self.going.pid, signal.SIGKILL)
        if self.going.process.wait() != -signal.SIGKILL:
            return False
        self.kills.append((ORCHESTRATOR, moment))
        wait_until(lambda: not any(is_alive(pid, program) for pid, program in stages.items()), 10, "the stages of a killed orchestrator end")
        self.start()
        return True

    def wait_for(self, condition, seconds=6):
        """Whether it came true while the run went on."""
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end:
            result = condition()
            if result:
                return result
            time.sleep(0.005)
        return None

    def young(self, kind, moment, is_first):
        """Kill a process of the kind that has just begun, or has just got ready; an old one dies for it first."""
        if kind == ORCHESTRATOR:
            if not is_first and not self.kill(kind, "work"):
                return
            if moment == "open":
                self.wait_for(lambda: self.read_events() or self.ready)
            time.sleep(self.rng.uniform(0, 0.1))
            self.kill(kind, moment)
            return
        self.read_events()
        n_ready, old = self.ready.get(kind, 0), []
        if not is_first:
            old = self.pids(kind)
            if not self.kill(kind, "work"):
                return
        pid = self.wait_for(lambda: next((pid for pid in self.pids(kind) if pid not in old), None))
        if moment == "open":
            self.wait_for(lambda: self.read_events() or self.ready.get(kind, 0) > n_ready)
        time.sleep(self.rng.uniform(0, 0.1))
        if pid:
            self.kill(kind, moment, pid)

    def strike(self, kind, moment, is_first, n_finished):
        if moment in ("start", "open"):
            self.young(kind, moment, is_first)
            return
        if moment == "work":
            time.sleep(self.rng.uniform(0.02, 0.4))
        else:
            self.wait_for(lambda: self.job.finished() >= min(n_finished - 1, 0.9 * n_finished), 60)
            time.sleep(self.rng.uniform(0, 0.15))
        self.kill(kind, moment)


def is_alive(pid, program):
    try:
        return program.encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def rarest(victim, counts, rng, but=None):
    """The kind of the run that has died least, with what died elsewhere."""
    kinds = sorted((set(victim.kinds.values()) | {ORCHESTRATOR}) - {but})
    rng.shuffle(kinds)
    return min(kinds, key=lambda kind: counts.get(kind, 0) + sum(died == kind for died, _ in victim.kills))


def disturb(victim, counts, most, at_once, n_finished):
    """Until `most` have died: a third of them at the end, the others at any moment before. The exit code."""
    rng = victim.rng
    early = max(1, most * 2 // 3)
    is_first = True
    while victim.running() and len(victim.kills) < most:
        moment = rng.choice(EARLY) if len(victim.kills) < early else "finish"
        kind = rarest(victim, counts, rng)
        victim.strike(kind, moment, is_first, n_finished)
        is_first = False
        if at_once > 1 and victim.running() and len(victim.kills) < most:
            victim.kill(rarest(victim, counts, rng, but=kind), "work" if moment != "finish" else moment)
    return victim.going.wait(300)


def differing_bytes(got, wanted):
    total = 0
    for key in got.keys() | wanted.keys():
        a, b = got.get(key, b""), wanted.get(key, b"")
        total += 0 if a == b else max(1, abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b)))
    return total


class Soak:
    def __init__(self, folder, seed, record, n_kills):
        self.folder, self.seed, self.record, self.n_kills = folder, seed, record, n_kills
        lines = record.read_text().splitlines() if record.exists() else []
        self.results = [result for result in map(json.loads, lines) if result["seed"] == seed]
        self.n_begun = len(self.results)
        self.lock, self.calm, self.calm_lock = threading.Lock(), {}, threading.Lock()

    def counts(self, place):
        counts = {}
        for result in self.results:
            for kill in result["kills"]:
                counts[kill[place]] = counts.get(kill[place], 0) + 1
        return counts

    def n_done(self):
        return sum(len(result["kills"]) for result in self.results)

    def undisturbed(self, world):
        """What a calm run of the world makes, and how many segments and clips; run once."""
        with self.calm_lock:
            if world not in self.calm:
                make, options, _ = WORLDS[world]
                job = make(self.folder, f"calm-{list(WORLDS).index(world)}", **options)
                run(job.graph, *job.arguments, timeout=300)
                finished = job.finished()
                made = [contents(path) for path in job.makes]
                assert finished and all(files and all(files.values()) for files in made), f"a calm run of {world} made nothing"
                self.calm[world] = (made, finished)
            return self.calm[world]

    def one_run(self, index):
        """The index-th run; what happened, for the record."""
        world = list(WORLDS)[index % len(WORLDS)]
        make, options, at_once = WORLDS[world]
        wanted, n_finished = self.undisturbed(world)
        rng = random.Random(f"{self.seed}/{world}/{index}")
        with self.lock:
            counts = self.counts(0)
            most = min(8, self.n_kills - self.n_done())
        name = f"wild-{index}"
        job = make(self.folder, name, **options)
        log = self.folder / f"{name}.log"
        victim = Victim(job, rng, log)
        code = disturb(victim, counts, most, at_once, n_finished)
        result = {"world": world, "index": index, "seed": self.seed, "kills": victim.kills, "code": code, "differing": 0}
        if not code:
            result["differing"] = sum(differing_bytes(contents(path), calm) for path, calm in zip(job.makes, wanted, strict=True))
        if code or result["differing"]:
            result["text"], result["left"] = log.read_text(errors="replace")[-3000:], str(self.folder / name)
        else:
            for path in self.folder.glob(f"{name}*"):
                if path.name[len(name) : len(name) + 1] in ("", "."):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return result

    def worker(self):
        while True:
            with self.lock:
                if self.n_done() >= self.n_kills:
                    return
                index = self.n_begun
                self.n_begun += 1
            result = self.one_run(index)
            with self.lock:
                self.results.append(result)
                with open(self.record, "a") as file:
                    file.write(json.dumps(result) + "\n")
                print(f"{result['world']}: {len(result['kills'])} kills, code {result['code']}, {result['differing']} differing bytes", flush=True)

    def report(self):
        """The closing lines; whether nothing was wrong."""
        bad = [result for result in self.results if result["code"] or result["differing"]]
        for result in bad:
            print(f"{result['world']} (run {result['index']}) ended with code {result['code']}, left in {result['left']}:\n{result['text']}")
        for place in (0, 1):
            print(", ".join(f"{n} {word}" for word, n in sorted(self.counts(place).items())))
        print(f"seed {self.seed}, {len(self.results)} runs in {len(WORLDS)} worlds, {sum(bool(result['code']) for result in self.results)} failed")
        print(f"{self.n_done()} kills, {sum(result['differing'] for result in self.results)} differing bytes")
        return not bad


def soak(n_kills, record, seed, jobs):
    """Go on until so many have died; {kind: how often}. SystemExit when a run failed, or made other bytes."""
    with Folder("soak") as folder:
        text.TINY = folder
        going = Soak(folder, seed, record, n_kills)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for worker in [pool.submit(going.worker) for _ in range(jobs)]:
                worker.result()
        fine = going.report()
        if not fine:
            raise SystemExit(1)
        return going.counts(0)
