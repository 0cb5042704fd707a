"""Pictures in and out: sequences by number and by pattern, single pictures, what is kept after a kill.

    tests/pipeline/pictures.py [NAME...]
"""

import json
import pathlib
import random
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, Run, main, run, sha256, wait_until  # noqa: E402

SOURCE = "lavfi:testsrc2=size=64x48:rate=24:duration=2"


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def pixels(path, pixel_format="rgb24"):
    """All frames of a video, a picture or a sequence as raw bytes."""
    return subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", pixel_format, "-"],
                          stdout=subprocess.PIPE, check=True).stdout


def graph(path, source, output, read="", write=""):
    path.write_text(f"""
[stage.read]
kind = "decode"
{"manifest" if str(source).endswith(".json") else "input"} = "{source}"
{read}

[stage.write]
kind = "mux"
from = "read"
output = "{output}"
{write}
""")
    return path


def plan(graph_file):
    return subprocess.run([BIN / "orchestrator", "plan", graph_file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()


def pictures_have_the_pixels(folder):
    """Each ending; PNG and TIFF bit for bit, numbered from 1, or from where it is said."""
    ffmpeg("-f", "lavfi", "-i", SOURCE[6:], "-pix_fmt", "gbrp", "-c:v", "ffv1", folder / "in.mkv")
    expected = pixels(folder / "in.mkv")
    for ending in ("png", "tiff", "bmp"):
        run(graph(folder / f"{ending}.toml", folder / "in.mkv", folder / ending / f"%06d.{ending}"))
        names = sorted(path.name for path in (folder / ending).iterdir())
        assert names == [f"{i:06d}.{ending}" for i in range(1, 49)], names
        assert pixels(folder / ending / f"%06d.{ending}") == expected, ending
    for ending in ("jpg", "exr"):
        run(graph(folder / f"{ending}.toml", folder / "in.mkv", folder / ending / f"a-%d.{ending}", write="first_number = 7", read="frames = 3"))
        assert sorted(path.name for path in (folder / ending).glob("*." + ending)) == [f"a-{i}.{ending}" for i in (7, 8, 9)]
        got = pixels(folder / ending / f"a-7.{ending}")
        worst = max(abs(a - b) for a, b in zip(got, expected[: len(got)]))
        assert len(got) == 64 * 48 * 3 and worst <= (20 if ending == "jpg" else 1), (ending, worst)


def deep_pictures_keep_their_bits(folder):
    ffmpeg("-f", "lavfi", "-i", SOURCE[6:] + ",format=gbrp16le,noise=alls=9:allf=t", "-c:v", "ffv1", "-pix_fmt", "gbrp16le", folder / "in.mkv")
    for ending in ("png", "tif"):
        run(graph(folder / "g.toml", folder / "in.mkv", folder / f"{ending}-%02d.{ending}", read="frames = 4"), "--fresh")
        got = pixels(folder / f"{ending}-%02d.{ending}", "rgb48le")
        assert got == pixels(folder / "in.mkv", "rgb48le")[: len(got)] and len(got) == 4 * 64 * 48 * 6, ending


def a_kill_redoes_no_picture(folder):
    """kill -9 of mux and of the orchestrator: finished pictures are not touched, the rest is as ever."""
    source = "lavfi:testsrc2=size=160x120:rate=24:duration=12"
    run(graph(folder / "a.toml", source, folder / "a" / "%05d.png"))
    going = Run(graph(folder / "b.toml", source, folder / "b" / "%05d.png"))
    rng = random.Random(1)
    wait_until(lambda: len(list(folder.glob("b/*.png"))) > 20, 30, "20 pictures")
    assert going.kill_stage(rng, "stage-mux")
    wait_until(lambda: len(list(folder.glob("b/*.png"))) > 60 or not going.running(), 30, "60 pictures")
    going.process.kill()
    going.wait()
    done = sorted(folder.glob("b/*.png"))[:-2]  # the last may be renamed and not counted yet
    assert len(done) < 280, "the run was over before it was killed"
    before = {path: path.stat().st_mtime_ns for path in done}
    text = run(folder / "b.toml")
    assert "continues" in text, text
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "finished pictures were made again"
    assert [path.name for path in sorted(folder.glob("b/*"))] == [f"{i:05d}.png" for i in range(1, 289)]
    assert all(sha256(folder / "a" / path.name) == sha256(path) for path in folder.glob("b/*.png"))


def old_pictures_do_not_pass_for_new(folder):
    run(graph(folder / "a.toml", SOURCE, folder / "p" / "%03d.png"))
    red = "lavfi:color=red:size=64x48:rate=24:duration=1"
    run(graph(folder / "a.toml", red, folder / "p" / "%03d.png"), "--fresh")
    assert sha256(folder / "p" / "001.png") == sha256(folder / "p" / "024.png"), "a picture of the first run is left among those of the second"
    assert len(list(folder.glob("p/*.png"))) == 48, "pictures of numbers that are not written, whoever made them, were taken away"


def single_pictures(folder):
    """One in, one out; several into one name is refused."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=72x40", "-frames:v", "1", folder / "in.png")
    run(graph(folder / "g.toml", folder / "in.png", folder / "out.png"))
    assert pixels(folder / "in.png") == pixels(folder / "out.png")
    text = run(graph(folder / "h.toml", SOURCE, folder / "many.png"), expect=2)
    assert "is one picture, and clip" in text and "%06d" in text, text


def a_plan_says_what_is_lost(folder):
    text = plan(graph(folder / "g.toml", SOURCE, folder / "p" / "%d.png"))
    assert "timestamps" in text and "not kept" in text, text


def pictures_of_a_data_set(folder):
    ffmpeg("-f", "lavfi", "-i", SOURCE[6:], folder / "x.mp4")
    ffmpeg("-f", "lavfi", "-i", SOURCE[6:], "-frames:v", "3", folder / "y.mp4")
    (folder / "list.json").write_text(json.dumps([{"path": "x.mp4"}, {"path": "y.mp4"}]))
    file = graph(folder / "g.toml", folder / "list.json", folder / "out" / "{clip}" / "%d.png")
    run(file)
    assert len(list(folder.glob("out/x/*.png"))) == 48 and len(list(folder.glob("out/y/*.png"))) == 3, list(folder.glob("out/*/*"))
    times = {path: path.stat().st_mtime_ns for path in folder.glob("out/*/*.png")}
    run(file)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "what was there was made again"


def patterns_take_pictures_by_name(folder):
    """As FFmpeg's glob: by bytes, so that 10 comes before 2."""
    shots = folder / "shots"
    shots.mkdir()
    colours = {"a1": "red", "a10": "green", "a2": "blue", "B": "white"}
    for name, colour in colours.items():
        ffmpeg("-f", "lavfi", "-i", f"color={colour}:size=48x32", "-frames:v", "1", "-pix_fmt", "rgb24", shots / f"{name}.png")
    run(graph(folder / "g.toml", shots / "*.png", folder / "out-%d.png"))
    order = ["B", "a1", "a10", "a2"]
    for i, name in enumerate(order):
        assert pixels(folder / f"out-{i + 1}.png") == pixels(shots / f"{name}.png"), (i, name)
    expected = subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-pattern_type", "glob", "-i", f"{shots}/*.png", "-f", "rawvideo",
                               "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE, check=True).stdout
    assert pixels(folder / "out-%d.png") == expected


def pictures_that_are_read_stay(folder):
    """Outputs whose names are the source's: refused before anything is removed; other names of the same folder are free."""
    shots = folder / "shots"
    shots.mkdir()
    (folder / "link").symlink_to(shots)
    ffmpeg("-f", "lavfi", "-i", SOURCE[6:], "-frames:v", "5", shots / "%04d.png")
    before = {path.name: sha256(path) for path in shots.iterdir()}
    (folder / "list.json").write_text(json.dumps([{"path": "shots/%04d.png", "name": "shots"}]))
    for source, output in (("shots/*.png", "shots/%04d.png"), ("shots/%04d.png", "link/%d.png"),
                           ("shots/00*.png", "shots/%03d.PNG"), ("s*s/*.png", "shots/%d.png"), ("shots/%04d.png", "shots/00%d.png"),
                           ("shots/*.png", "shots/one.png"), ("list.json", "{clip}/%02d.png"), ("shots/0003.png", "shots/%04d.png"),
                           ("shots/0003.png", "link/%d.png")):
        text = run(graph(folder / "g.toml", source, output, read="frames = 1"), "--fresh", expect=2)
        assert "would be written over" in text and "choose an" in text, (source, output, text)
        assert before == {path.name: sha256(path) for path in shots.iterdir()}, (source, output)
    run(graph(folder / "h.toml", "shots/%04d.png", "shots/made-%04d.png"))
    assert len(list(shots.glob("made-*.png"))) == 5 and before.items() <= {path.name: sha256(path) for path in shots.glob("*.png")}.items()


def what_is_wrong_with_a_sequence_names_the_picture(folder):
    for i in range(5):
        size = "48x32" if i != 3 else "48x40"
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}", "-frames:v", "1", folder / f"s{i}.png")
    for pattern in ("s*.png", "s%d.png"):
        text = run(graph(folder / "g.toml", folder / pattern, folder / "out.mp4"), "--fresh", expect=1)
        assert "s3.png" in text and "48x40" in text, text
    (folder / "s3.png").write_bytes((folder / "s2.png").read_bytes()[:200])
    text = run(graph(folder / "g.toml", folder / "s*.png", folder / "out.mp4"), "--fresh", expect=1)
    assert "s3.png" in text and "damaged" in text, text
    text = run(graph(folder / "h.toml", folder / "none*.png", folder / "out2.mp4"), expect=1)
    assert "no picture of such a name" in text, text


def a_hole_in_the_numbers_is_said(folder):
    """Nothing is left out in silence; what stands before the hole can be had."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=48x32:rate=24", "-frames:v", "9", folder / "%04d.png")
    (folder / "0005.png").unlink()
    text = run(graph(folder / "g.toml", folder / "%04d.png", folder / "out.mp4"), expect=1)
    assert f"{folder}/0005.png is missing, later ones are there; to use those before it, say frames = 4" in text, text
    run(graph(folder / "g.toml", folder / "%04d.png", folder / "out.mp4", read="frames = 4"), "--fresh")
    for i in range(6, 10):
        (folder / f"{i:04d}.png").unlink()
    (folder / "5.png").write_bytes(b"")  # of other names
    (folder / "0007.jpg").write_bytes(b"")
    run(graph(folder / "g.toml", folder / "%04d.png", folder / "out.mp4"), "--fresh")


def changed_pictures_of_a_data_set_are_read_again(folder):
    """One of a sequence's pictures is another: its clip is made again, the others are not."""
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=48x32:rate=24", "-frames:v", "4", folder / name / "%04d.png")
    (folder / "list.json").write_text(json.dumps([{"path": path, "name": path[0]} for path in ("a/%04d.png", "b/*.png", "c/%04d.png")]))
    file = graph(folder / "g.toml", folder / "list.json", folder / "out-{clip}.mkv", write='codec = "ffv1"\npixel_format = "bgr0"')
    run(file)
    made = (folder / "out-c.mkv").stat().st_mtime_ns
    for name in ("a", "b"):
        ffmpeg("-f", "lavfi", "-i", "color=red:size=48x32", "-frames:v", "1", "-pix_fmt", "rgb24", folder / name / "0003.png")
    run(file)
    for name in ("a", "b"):
        assert pixels(folder / f"out-{name}.mkv") == pixels(folder / name / "%04d.png"), name
    assert (folder / "out-c.mkv").stat().st_mtime_ns == made, "what had not changed was made again"


if __name__ == "__main__":
    main([pictures_have_the_pixels, deep_pictures_keep_their_bits, a_kill_redoes_no_picture, old_pictures_do_not_pass_for_new, single_pictures,
          a_plan_says_what_is_lost, pictures_of_a_data_set, patterns_take_pictures_by_name, what_is_wrong_with_a_sequence_names_the_picture,
          a_hole_in_the_numbers_is_said, changed_pictures_of_a_data_set_are_read_again, pictures_that_are_read_stay])
