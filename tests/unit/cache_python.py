"""A Python user reads the cache with the packages lmdb and safetensors, and nothing of Longtake.

    tests/unit/cache_python.py UNIT_CACHE
"""

import json
import subprocess
import sys
import tempfile

try:
    import lmdb
    import safetensors.torch
except ImportError as missing:
    print(f"skipped: python package {missing.name} is not installed: 1 case")
    sys.exit(77)

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.argv[1], "--make", folder], check=True)
    with lmdb.open(folder, readonly=True) as environment, environment.begin() as transaction:
        frames = 0
        for key, value in transaction.cursor():
            if not key.startswith(b"latent/film/"):
                continue
            first = int(key.rsplit(b"/")[-1])
            tensors = safetensors.torch.load(value)
            assert sorted(tensors) == ["latent", "logvar"], sorted(tensors)
            latent = tensors["latent"]
            assert tuple(latent.shape[1:]) == (3, 5, 7), latent.shape
            expected = [(first * 31 + i) % 251 - 125 for i in range(latent.numel())]
            assert latent.flatten().tolist() == expected, f"chunk at {first}"
            header = json.loads(bytes(value[8:8 + int.from_bytes(value[:8], "little")]))
            assert float(header["__metadata__"]["scaling_factor"]) == 0.18215
            assert int(header["__metadata__"]["first_frame"]) == first == frames
            frames += latent.shape[0]
        assert frames == 19, frames
        record = json.loads(bytes(transaction.get(b"clip/film/0123456789abcdef")))
        assert record["state"] == "complete" and record["frames"] == 19, record
print("a value is read by lmdb and safetensors.torch alone")
