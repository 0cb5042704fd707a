"""gpu_table - what tools/gpu-check prints last, from its results alone; and what they are of."""

import array
import math
import pathlib
import platform
import statistics
import subprocess

from gpu_lines import LINES, STREAM_GOAL


def machine(run):
    """Device, driver, versions: what the figures are of."""
    try:
        smi = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
    except OSError:
        smi = ""
    classes = sorted({entry["numeric_class"] for entry in run.results.values() if "numeric_class" in entry})
    return {"gpu": smi or "none", "numeric_classes": classes, "torch": run.torch.facts, "host": platform.platform(), "python": platform.python_version()}


def seam_of(windows, whole, frames):
    """Of two files of f32 frames: the worst RMS step of their difference from frame to frame, over the RMS change of the whole."""
    a, b = (array.array("f") for _ in range(2))
    a.frombytes(pathlib.Path(windows).read_bytes())
    b.frombytes(pathlib.Path(whole).read_bytes())
    n, worst, own = len(a) // frames, 0.0, 0.0
    for f in range(1, frames):
        now, before = slice(f * n, (f + 1) * n), slice((f - 1) * n, f * n)
        steps = [(p - q, y - z) for p, q, y, z in zip(a[now], a[before], b[now], b[before])]
        worst = max(worst, math.sqrt(sum((s - t) ** 2 for s, t in steps) / n))
        own += sum(t * t for _, t in steps) / n
    change = math.sqrt(own / (frames - 1))
    return {"seam": worst / change if change else 0.0}


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / max(sum(y * y for y in b), 1e-30))


def median(entry):
    """Seconds of the whole work: of a shortened job scaled."""
    return statistics.median(entry["times"]) * entry.get("whole_over_measured", 1) if entry and entry.get("times") else None


def spread(entry):
    return (max(entry["times"]) - min(entry["times"])) / statistics.median(entry["times"])


def met(value, goal, what):
    if value is None:
        return f"{what} not measured"
    return f"{what} met" if value >= goal else f"{what} missed: {value / goal:.0%} of it"


def row(line, results, ceiling, small):
    """Cells of a line: work, ours, PyTorch, ratio, goal, met. A rehearsal has no goals."""
    ours = results.get(f"{line.name}/ours", {"result": "not run"})
    other = "job_own" if line.name == "job_default" else line.name
    sides = {mode: results.get(f"{other}/{mode}") for mode in ("eager", "compile", "max-autotune")}
    seconds = median(ours)
    against = {mode: median(side) for mode, side in sides.items() if median(side) and (mode in line.against or (mode == "max-autotune" and "compile" in line.against))}
    fastest = min(against, key=against.get, default=None)
    ratio = against[fastest] / seconds if against and seconds else None
    missing = " and ".join(mode for mode in line.against if mode not in against)
    # The share is of what was run, the time of what it stands for.
    rate = ours["products"] / statistics.median(ours["times"]) / 1e12 if seconds else None
    share = rate / ceiling if rate and ceiling and not small else None

    def cell(side):
        if not side:
            return "-"
        return f"{median(side) * 1e3:.1f}" if median(side) else side["result"][:22]

    goals = [(f"{line.share:.0%}", met(share, line.share, "share"))] if line.share and not small else []
    goals += [(f"{line.ratio:g}x", met(ratio, line.ratio, f"ratio (without {missing})" if missing and ratio else "ratio"))] if line.ratio and not small else []
    fast = [side for side in (sides["compile"], sides["max-autotune"]) if side and median(side)]
    return [line.title, f"{seconds * 1e3:.1f} +-{spread(ours) / 2:.0%}" if seconds else ours["result"][:22], f"{rate:.1f}" if rate else "-", f"{share:.0%}" if share else "-",
            cell(sides["eager"]), cell(min(fast, key=median) if fast else sides["compile"]), f"{ratio:.2f}x {fastest}" if ratio else "-", ", ".join(g for g, _ in goals),
            "; ".join(m for _, m in goals)]


def notes(results):
    for line in LINES:
        ours = results.get(f"{line.name}/ours", {})
        for mode in ("eager", "compile"):
            side = results.get(f"{line.name}/{mode}", {})
            if ours.get("samples") and side.get("samples") and not line.whole:  # lite-sora's tiles give other results than whole frames
                yield f"{line.name}: results are {distance(ours['samples'], side['samples']):.1e} (L2) from PyTorch's {mode}" + (f"; {side['note']}" if side.get("note") else "")
        if "whole_over_measured" in ours:
            yield f"{line.name}: times are those of a shortened job times {ours['whole_over_measured']:.1f}, as its FLOPs are; lite-sora's likewise by its own"
    seam = results.get("seam", {})
    if "seam" in seam:
        yield f"default windows: the worst step at a seam is {seam['seam']:.3g} of the clip's own change from frame to frame ({seam['size']}, random weights)"


def show(report):
    results = report["results"]
    ceiling = results.get("ceiling", {}).get("tflops", 0)
    print()
    for name, entry in results.items():
        if "/" not in name and name not in ("ceiling", "stream", "seam"):
            print(f"{name:<28} {entry['result']}" + (f" ({entry['summary']})" if entry.get("summary") else ""))
    rows = [["work", "ours, ms", "TFLOP/s", "of ceiling", "eager, ms", "compile, ms", "ratio", "goal", "met"]]
    rows += [row(line, results, ceiling, report["small"]) for line in LINES]
    stream = results.get("stream", {"result": "not run"})
    fps = stream.get("fps")
    goal = ["", ""] if report["small"] else [f"{STREAM_GOAL:g} frames/s", met(fps, STREAM_GOAL, "rate")]
    rows.append(["1080p encode as a stream, host frames to cache", f"{fps:.1f} frames/s" if fps else "too short to tell" if "fps" in stream else stream["result"][:22], "-", "-", "-", "-", "-", *goal])
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    print()
    for note in notes(results):
        print(note)
    print(f"\n{report['machine']['gpu']}; revision {report['revision']}; ceiling {ceiling:.1f} TFLOP/s (the larger of both sides' 8192^3 product){'; SMALL: a rehearsal' if report['small'] else ''}")
    for r in rows:
        print(" | ".join(cell.ljust(width) for cell, width in zip(r, widths)).rstrip())
