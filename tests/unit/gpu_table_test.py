#!/usr/bin/env python3
"""The table of tools/gpu-check says what its results say: rates, shares, ratios to the faster side, goals met and missed, shortened jobs, what was not run."""

import array
import contextlib
import io
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "bench"))
import gpu_table


def lines_of(results, small=False):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        gpu_table.show({"results": results, "small": small, "revision": "r", "machine": {"gpu": "one"}})
    return out.getvalue()


def cells(results, title, small=False):
    for line in lines_of(results, small).splitlines():
        if line.startswith(title):
            return [cell.strip() for cell in line.split("|")]
    raise AssertionError(title)


def passed(seconds, **more):
    return {"result": "passed", "times": [seconds * 0.9, seconds, seconds * 1.1], **more}


def main():
    ceiling = {"result": "passed", "tflops": 800.0}
    encode = {"ceiling": ceiling, "encode_576/ours": passed(0.1, products=48e12), "encode_576/eager": passed(0.3)}
    work, ours, rate, share, eager, compiled, ratio, goal, met = cells({**encode, "encode_576/compile": passed(0.15)}, "SVD VAE encode, 8 frames, 1024x576")
    assert (ours, rate, share) == ("100.0 +-10%", "480.0", "60%"), (ours, rate, share)
    assert (eager, compiled, ratio, goal) == ("300.0", "150.0", "1.50x compile", "55%, 2x"), (eager, compiled, ratio, goal)
    assert met == "share met; ratio missed: 75% of it", met
    *_, ratio, goal, met = cells({**encode, "encode_576/compile": {"result": "stopped after 9 s"}}, "SVD VAE encode, 8 frames, 1024x576")
    assert (ratio, met) == ("3.00x eager", "share met; ratio (without compile) met"), (ratio, met)
    *_, compiled, ratio, _, _ = cells({**encode, "encode_576/compile": passed(0.25), "encode_576/max-autotune": passed(0.2)}, "SVD VAE encode, 8 frames, 1024x576")
    assert (compiled, ratio) == ("200.0", "2.00x max-autotune"), (compiled, ratio)
    # Eager does not count where the goal is against the compiled one.
    text = {"ceiling": ceiling, "t5_xxl/ours": passed(0.01, products=1e12), "t5_xxl/eager": passed(0.02)}
    *_, ratio, _, met = cells(text, "T5-xxl")
    assert (ratio, met) == ("-", "ratio not measured"), (ratio, met)
    # A shortened job: both sides' times are scaled, each by its own work; the rate is of what was run.
    job = {"ceiling": ceiling, "job_own/ours": passed(2.0, products=800e12, whole_over_measured=30), "job_default/ours": passed(2.0, products=800e12, whole_over_measured=20),
           "job_own/eager": passed(10.0, whole_over_measured=32)}
    for name, ratio in (("lite-sora's time windows", "5.33x eager"), ("default windows", "8.00x eager")):
        row = cells(job, f"encode_video + decode_video, 1024 frames of 1024x1024, {name}")
        assert (row[2], row[6]) == ("400.0", ratio), row
    assert cells(job, "encode_video + decode_video, 1024 frames of 1024x1024, lite")[8] == "ratio missed: 89% of it"
    # What was not run, or failed, is said; a rehearsal has no goals.
    assert cells({"decode_576/ours": {"result": "not run: no time left", "failed": True}}, "SVD VAE decode, 25 frames, a window, 1024x576")[1] == "not run: no time left"
    assert cells({}, "VideoDiT v2")[1] == "not run"
    assert cells({**encode}, "SVD VAE encode, 8 frames, 1024x576", True)[7:] == ["", ""]
    assert cells({"stream": {"result": "passed", "fps": 24.0}}, "1080p")[-1] == "rate missed: 80% of it"
    assert "memcheck                     FAILED, code 9" in lines_of({"memcheck": {"result": "FAILED, code 9"}})
    # A seam: one step of 3 between frames 1 and 2, where the clip itself changes by 1 from frame to frame.
    with tempfile.TemporaryDirectory() as folder:
        for name, jump in (("windows", 3), ("whole", 0)):
            array.array("f", [f + (jump if f > 1 else 0) for f in range(4) for _ in range(5)]).tofile(open(f"{folder}/{name}", "wb"))
        assert abs(gpu_table.seam_of(f"{folder}/windows", f"{folder}/whole", 4)["seam"] - 3) < 1e-6


if __name__ == "__main__":
    main()
