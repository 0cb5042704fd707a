"""tools/to_safetensors: what it takes out of a checkpoint and how it names it; with torch, whole files.

    tests/unit/to_safetensors_test.py

LT_PYTHON names a Python with torch and safetensors, for the second half; without them that is skipped.
"""

import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import tempfile

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "to_safetensors"
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("to_safetensors", str(TOOL))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("to_safetensors", loader))
loader.exec_module(tool)


def refused(words, call, *args):
    try:
        call(*args)
    except tool.Refused as sentence:
        assert words in str(sentence), sentence
    else:
        raise AssertionError(f"not refused: {words}")


def names():
    state = {"denoising_model.blocks.0.a": 1, "denoising_model._orig_mod.b": 2, "text_encoder.c": 3}
    assert tool.state_of(state) is state
    assert tool.state_of({"state_dict": state, "epoch": 3}) is state
    assert tool.state_of({"module": state, "dp_world_size": 1}) is state
    assert tool.state_of({"module": {"state_dict": state}}) is state
    refused("no dictionary", tool.state_of, {"state_dict": {}})
    refused("no dictionary", tool.state_of, [1, 2])
    assert tool.renamed(list(state), None, False) == (
        {"denoising_model.blocks.0.a": "blocks.0.a", "denoising_model._orig_mod.b": "b"}, "denoising_model.")
    assert tool.renamed(list(state), "text_encoder.", False) == ({"text_encoder.c": "c"}, "text_encoder.")
    assert len(tool.renamed(list(state), None, True)[0]) == 3
    assert tool.renamed(["x.weight", "y"], None, False) == ({"x.weight": "x.weight", "y": "y"}, "")
    refused("names begin with denoising_model., text_encoder.", tool.renamed, list(state), "vae.", False)
    refused("two tensors would be called a", tool.renamed, ["a", "_orig_mod.a"], None, False)


def folders(folder):
    refused("no such file", tool.weights_file, f"{folder}/nothing.ckpt")
    deep = pathlib.Path(folder, "last.ckpt")
    (deep / "checkpoint").mkdir(parents=True)
    refused("a folder without DeepSpeed's", tool.weights_file, str(deep))
    (deep / "checkpoint" / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    refused("ZeRO stage 3", tool.weights_file, str(deep))
    states = deep / "checkpoint" / "mp_rank_00_model_states.pt"
    states.touch()
    assert tool.weights_file(str(deep)) == str(states)
    assert tool.weights_file(str(deep / "checkpoint")) == str(states)
    assert tool.weights_file(str(states)) == str(states)
    (deep / "latest").write_text("global_step8\n")
    (deep / "global_step8").mkdir()
    newer = deep / "global_step8" / "mp_rank_00_model_states.pt"
    newer.touch()
    assert tool.weights_file(str(deep)) == str(newer)


def make(torch, folder):
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"denoising_model.a.weight": shared, "denoising_model.b.weight": shared, "denoising_model.c": shared.T.half(),
             "text_encoder.d": torch.ones(3), "denoising_model.step": torch.tensor(7)}
    torch.save({"state_dict": state, "epoch": 1, "pytorch-lightning_version": "2.0"}, f"{folder}/light.ckpt")
    torch.save({"state_dict": state, "args": argparse.Namespace(a=1)}, f"{folder}/objects.ckpt")
    os.makedirs(f"{folder}/deep.ckpt/checkpoint")
    torch.save({"module": {k: v.half() for k, v in state.items()}, "dp_world_size": 2},
               f"{folder}/deep.ckpt/checkpoint/mp_rank_00_model_states.pt")
    pathlib.Path(folder, "text.ckpt").write_text("no checkpoint")
    return shared


def whole(folder):
    """In a Python with torch: the tool's main on files."""
    import torch
    from safetensors.torch import load_file
    matrix = make(torch, folder)
    out = f"{folder}/out.safetensors"

    def run(*args, says=None):
        sys.argv, said = ["to_safetensors", *args], io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                tool.main()
        except SystemExit as end:
            assert says and says in str(end.code) and str(end.code).startswith("to_safetensors: "), end.code
        else:
            assert not says or says in said.getvalue(), said.getvalue()

    def check(names, dtype):
        tensors = load_file(out)
        assert sorted(tensors) == names, sorted(tensors)
        for name in {"a.weight", "b.weight"} & set(tensors):
            assert torch.equal(tensors[name].float(), matrix) and tensors[name].dtype == dtype, name
        assert "c" not in tensors or torch.equal(tensors["c"].float(), matrix.T)

    trained = ["a.weight", "b.weight", "c", "step"]
    run(f"{folder}/light.ckpt", out, says='4 tensors, 19 parameters, from names that begin with "denoising_model."; 1 others')
    check(trained, torch.float32)
    run(f"{folder}/deep.ckpt", out)
    check(trained, torch.float16)
    run(f"{folder}/deep.ckpt", out, "--dtype", "bf16")
    check(trained, torch.bfloat16)
    run(f"{folder}/light.ckpt", out, "--keep", "text_encoder.")
    check(["d"], torch.float32)
    run(f"{folder}/light.ckpt", out, "--all")
    check([f"denoising_model.{n}" for n in trained] + ["text_encoder.d"], torch.float32)
    os.remove(out)
    run(f"{folder}/objects.ckpt", out, says="--unsafe reads it")
    run(f"{folder}/text.ckpt", out, says="text.ckpt")
    run(f"{folder}/none.ckpt", out, says="no such file")
    assert not os.path.exists(out)
    run(f"{folder}/objects.ckpt", out, "--unsafe")
    check(trained, torch.float32)
    assert sorted(os.listdir(folder)) == ["deep.ckpt", "light.ckpt", "objects.ckpt", "out.safetensors", "text.ckpt"]


if "--whole" in sys.argv:
    whole(sys.argv[2])
    sys.exit(0)
names()
with tempfile.TemporaryDirectory() as folder:
    folders(folder)
with tempfile.TemporaryDirectory() as folder:
    python = os.environ.get("LT_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import importlib.util as u; assert u.find_spec('torch') and u.find_spec('safetensors')"],
                           capture_output=True)
    if probe.returncode != 0:
        print("names and folders are right; skipped: whole files, since this Python has no torch or safetensors (LT_PYTHON)")
        sys.exit(77)
    subprocess.run([python, __file__, "--whole", folder], check=True)
print("names, folders and whole files are right")
