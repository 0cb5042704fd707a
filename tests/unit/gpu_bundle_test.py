#!/usr/bin/env python3
"""What `tools/gpu-check --bundle` makes runs where this checkout is not, nor any library of ours: its checks pass on the CPU, in a mount namespace of its own."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SYSTEM = re.compile(r"/(ld-linux-x86-64|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+|cuda|cudart|cudnn\w*|cublas(Lt)?))\.so")
HIDDEN = 'mount -t tmpfs none "$1" && exec "$2" --small --device cpu --part checks --json "$3"'


def skip(why):
    print(f"skipped: a bundle for a GPU: {why}")
    sys.exit(77)


def run(command, timeout=300, **more):
    return subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, **more)


def main(folder):
    bundle = folder / "bundle"
    made = run([ROOT / "tools" / "gpu-check", "--bundle", bundle], env={k: v for k, v in os.environ.items() if k not in ("LT_PYTHON", "LT_LITE_SORA")})
    assert made.returncode == 0, made.stdout
    programs = [path for path in (bundle / "bin").iterdir() if path.suffix != ".so"]
    needed = run(["ldd", *programs], env={**os.environ, "LD_LIBRARY_PATH": str(bundle / "lib")}).stdout
    paths = [match[1] for match in re.finditer(r"=> (/\S+)", needed)]
    assert "not found" not in needed, needed
    strange = {path for path in paths if bundle not in pathlib.Path(path).parents and not SYSTEM.search(path)}
    assert not strange, f"not in the bundle: {strange}"
    twice = {path.name for path in (bundle / "lib").iterdir() if SYSTEM.search(f"/{path.name}")}
    assert not twice, f"these belong to the machine that it runs on: {twice}"
    if run(["unshare", "-rm", "true"]).returncode != 0:
        skip("it was made, and not run: no namespace of mounts can be had here")
    done = run(["unshare", "-rm", "sh", "-c", HIDDEN, "sh", ROOT, bundle / "gpu-check", folder / "said.json"], cwd=folder)
    assert done.returncode == 0, done.stdout
    for model in ("vae", "text", "denoiser", "denoiser_sdxl3d", "tiling"):
        assert re.search(rf"^models_{model} +passed", done.stdout, re.MULTILINE), done.stdout
    print("1 passed, 0 failed")


if __name__ == "__main__":
    if os.environ.get("LT_SANITIZED"):
        skip("it would be of another build")
    if not (ROOT / "build" / "bin" / "longtake_cuda.so").exists():
        skip("there is no build with CUDA")
    if not shutil.which("unshare"):
        skip("there is no unshare here")
    with tempfile.TemporaryDirectory(prefix="lt-test-bundle-") as name:
        main(pathlib.Path(name))
