"""The memory that every kind of stage plans is what it takes: RssAnon, sampled while it runs, within 10 %.

    tests/pipeline/planned_memory.py [NAME...]
    tests/pipeline/planned_memory.py small_pictures larger_pictures decoders      minutes long, not in the suite

Slabs are apart: they belong to the run. A process under 20 MiB may be off by 1 MiB instead: the pages that libraries
write to when they are loaded, and what an allocator keeps for its threads, are not known that well.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fixtures"))
from harness import BIN, ROOT, SANITIZED, Run, main, narrow_model, need_model, skip, write_graph  # noqa: E402
import tiny_models  # noqa: E402

MIB = 1 << 20
BOUND, SMALL, SLACK = 0.10, 20 * MIB, MIB
EXAMPLES = ROOT / "examples"


def rss_anon(pid):
    """Bytes of anonymous memory; what is mapped from files (weights, the cache, programs) does not count."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("RssAnon"))


def watch(graph, *arguments, expect=0):
    """Run a graph; the largest RssAnon of each stage's program."""
    going = Run(graph, *arguments, log=f"{tempfile.mktemp()}.log")
    known, peaks = {}, {}
    looked = 0
    while going.running():
        if time.monotonic() - looked > 0.1:
            known.update(going.stages())
            looked = time.monotonic()
        for pid, program in known.items():
            peaks[program] = max(peaks.get(program, 0), rss_anon(pid))
        time.sleep(0.004)
    assert going.wait() == expect, going.text()
    os.unlink(going.log.name)
    return peaks


def check(graph, *arguments):
    arguments = [str(a) for a in arguments]
    plan = json.loads(subprocess.run([BIN / "orchestrator", "plan", graph, *arguments, "--json"], stdout=subprocess.PIPE, check=True)
                      .stdout.decode().splitlines()[-1])
    planned = {f"stage-{stage['kind']}": stage["peak_bytes"] for stage in plan["stages"]}
    peaks, wrong = watch(graph, *arguments), []
    assert peaks.keys() == planned.keys(), (peaks, planned)
    for program, peak in peaks.items():
        off = planned[program] - peak
        fits = abs(off) <= BOUND * peak or (peak < SMALL and abs(off) <= SLACK)
        print(f"  {program}: {peak / MIB:.1f} MiB measured, {planned[program] / MIB:.1f} planned, {off / peak:+.1%}{'' if fits else '  <--'}")
        if not fits:
            wrong.append(f"{program}: planned {off / peak:+.1%} off what was measured")
    assert not wrong, "; ".join(wrong)


def sets(**options):
    return [word for name, value in options.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


# ---- the VAE's stages, with what stands around them


def round_trip(folder, frames, size, **options):
    source = f"lavfi:testsrc2=size={size}:rate=24"
    check(write_graph(folder / "g.toml", source, folder / "out.mkv", read=f"frames = {frames}", **options))


def whole_frames(folder):
    round_trip(folder, 20, "160x128", decode="window = 8\nstride = 6")


def tiles_and_a_cache(folder):
    round_trip(folder, 16, "192x128", cache=folder / "cache", encode='tile = "128"\nlogvar = true',
               decode='window = 8\nstride = 8\ntile = "96x64"\ntile_stride = "72x48"')


def forms(folder):
    """Tiles of sizes, and a last window of a number of frames, for which a weight is packed in another form, too."""
    round_trip(folder, 10, "200x200", encode='tile = "128"', decode='window = 9\nstride = 9', write='codec = "ffv1"')


def batches(folder):
    # Sixteen frames of H.264 are over before they can be looked at.
    round_trip(folder, 16, "128x64", encode='batch = 4\ncache_dtype = "f16"', decode='window = 4\nstride = 4\nbits = "16"', write='codec = "ffv1"')


# ---- decoders and encoders


def film(path, codec, size, seconds, *options):
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "quiet", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=24:duration={seconds}",
                    "-pix_fmt", "yuv422p10le" if codec.startswith("prores") else "yuv420p", "-c:v", codec, *options, path], check=True)
    return path


def remux(folder, codec, source, **options):
    print(f"  {source.name} to {codec}")
    check(EXAMPLES / "remux.toml", *sets(stage__read__input=source, stage__write__output=folder / f"{source.stem}-{codec}-again.mkv", stage__write__codec=codec,
                                         **{f"stage__write__{name}": value for name, value in options.items()}))


def many(folder, cases):
    wrong = []
    for case in cases:
        try:
            case()
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "; ".join(wrong)


CODECS = ["libx264", "libx265", "ffv1", "libvpx-vp9", "mpeg4", "prores_ks"]


def encoders(folder, size="320x180", seconds=3):
    source = film(folder / "film.mp4", "libx264", size, seconds)
    deep = film(folder / "deep.mov", "prores_ks", size, seconds)
    many(folder, [lambda c=c: remux(folder, c, source, segment=48) for c in CODECS] +
         [lambda c=c: remux(folder, c, deep) for c in ("libx264", "ffv1")])


def larger_pictures(folder):
    encoders(folder, "640x360", 4)


def small_pictures(folder):
    source = film(folder / "small.mp4", "libx264", "96x64", 4)
    many(folder, [lambda c=c: remux(folder, c, source) for c in CODECS])


def decoders(folder):
    many(folder, [lambda c=c, s=s: remux(folder, "ffv1" if c == "prores_ks" else "mpeg4", film(folder / f"{c}-{s}.mkv", c, s, 3)) for c in CODECS[1:] for s in ("96x64", "640x360")])


# ---- data sets


def data_set(folder, n=4):
    """Clips of two sizes with captions, as a manifest."""
    for i in range(n):
        film(folder / f"{i}.mkv", "ffv1", "96x64" if i % 2 else "128x96", 2)
    manifest = folder / "clips.json"
    manifest.write_text(json.dumps([{"path": f"{i}.mkv", "text": f"red bird {i}"} for i in range(n)]))
    return manifest


def data_sets(folder):
    """decode of a manifest and store; then latents and mux of many clips."""
    cache = folder / "cache"
    print("  into a cache")
    check(EXAMPLES / "precompute.toml", *sets(graph__cache=cache, stage__read__manifest=data_set(folder), stage__read__size="96x64",
                                              stage__read__frames=16))
    print("  out of it")
    check(EXAMPLES / "decode.toml", *sets(graph__cache=cache, stage__read__clips="*", stage__vae_decode__window=8,
                                          stage__write__output=folder / "made" / "{clip}.mkv", stage__write__codec="ffv1"))


# ---- text


def text_to_video(folder):
    """Every network, from its own text encoder, long enough to be looked at."""
    vae = narrow_model(folder / "vae")
    tiny = {family: folder / family for family in tiny_models.FAMILIES}
    for family, make in tiny_models.FAMILIES.items():
        make(tiny[family])

    def play(name, size, frames, text, network, steps=6, window=0):
        print(f"  {name}")
        options = sets(stage__write__output=folder / f"{name}.mkv", stage__write__codec="ffv1", graph__cache=folder / f"{name}.cache",
                       stage__denoise__size=size, stage__denoise__frames=frames, stage__denoise__steps=steps,
                       stage__denoise__model=network, **{f"stage__prompt__{key}": value for key, value in text.items()})
        if window:
            options += sets(stage__denoise__window=window, stage__denoise__stride=window // 2)
        if name != "pixel-dit":
            options += sets(stage__vae_decode__model=vae, stage__vae_decode__window=16)
        check(EXAMPLES / f"{name}.toml", *options)

    pixels, latents, pixart, sdxl = (tiny[name] for name in ("pixel-dit", "latent-dit", "pixart", "sdxl"))
    clip = dict(model=latents / "text_encoder", tokenizer=latents / "text_encoder")
    network = "denoising_model/model.safetensors"
    many(folder, [
        lambda: play("pixel-dit", "48x48", 24, dict(model=pixels / "text_encoder", tokenizer=pixels / "text_encoder"), pixels / network),
        lambda: play("latent-dit", "128x96", 24, clip, latents / network),
        lambda: play("text-to-long-video", "128x96", 96, clip, latents / network, window=16),
        lambda: play("pixart-video", "128x96", 24, dict(model=pixart), pixart / network),
        lambda: play("sdxl-3d", "128x96", 16, dict(model=sdxl, tokenizer=sdxl / "tokenizer", tokenizer_2=sdxl / "tokenizer_2"), sdxl / "unet"),
    ])


if __name__ == "__main__":
    need_model()
    if SANITIZED:
        skip("the memory measured would be the sanitizer's")
    tests = [whole_frames, tiles_and_a_cache, forms, batches, encoders, data_sets, text_to_video]
    main(tests + [test for test in (small_pictures, larger_pictures, decoders) if test.__name__ in sys.argv])
