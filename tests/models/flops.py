#!/usr/bin/env python3
"""FLOPs that a dry run of a network counts are those that PyTorch counts for the same network and shape, to the last one.

    flops.py BIN          the folder of the bench programs

tests/fixtures/flops.json has PyTorch's, and make_flops_fixtures.py made it. Where lite-sora projects the positions of every token, and Longtake those along
each axis, what either takes is put in the place of the other.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench"))
import networks


def expected(case):
    if "positions" not in case:
        return case["products"]
    width, frames, size = networks.FULL["video_dit_v2"]["width"], int(case["run"][2]), int(case["run"][3])
    return case["products"] - case["positions"] + 2 * (frames + 2 * size) // 4 * 3 * width * width


def main(tools):
    fixture, wrong = json.loads((ROOT / "tests" / "fixtures" / "flops.json").read_text()), 0
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for case in fixture["cases"]:
            program, name, *arguments = case["run"]
            if name not in made:
                made[name] = networks.make(name, f"{folder}/{name}", hollow=True, blocks=fixture["blocks"], tokens=512)
            line = subprocess.run([f"{tools}/{program}", made[name], *arguments, "--flops"], stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "XDG_CACHE_HOME": folder}).stdout
            told = json.loads(line)
            products = sum(told["kinds"].get(kind, 0) for kind in ("conv", "linear", "attention"))
            fine = told["products"] == products == expected(case) and told["flops"] == sum(told["kinds"].values()) > products
            wrong += not fine
            print(f"{' '.join(case['run']):<60} {told['products']:>20,} {'' if fine else 'not ' + format(expected(case), ',')}")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1]) else 0)
