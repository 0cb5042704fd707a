"""gpu_torch - PyTorch's side of the GPU's table: one process that keeps what it has imported, and that is started again when a task outlasts its limit."""

import contextlib
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import threading

PYTHON = os.environ.get("LT_PYTHON", "python3")
SCRIPT = pathlib.Path(__file__).parent / "torch_models.py"
PROBE = "import sys, torch, safetensors; sys.exit(0 if sys.argv[1] == 'cpu' or torch.cuda.is_available() else 3)"


class Torch:
    def __init__(self, device, environment):
        self.device, self.environment, self.process = device, {**environment, "HF_HUB_OFFLINE": "1"}, None
        self.facts, self.said = {}, queue.Queue()
        code = subprocess.run([PYTHON, "-c", PROBE, device], stderr=subprocess.DEVNULL, env=environment).returncode if shutil.which(PYTHON) else 1
        self.there = code == 0
        self.why = f"that of {PYTHON} sees no GPU" if code == 3 else f"{PYTHON} has none"

    def start(self, limit):
        self.said = queue.Queue()
        self.process = subprocess.Popen([PYTHON, str(SCRIPT), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.environment,
                                        start_new_session=True)  # with those who compile for it
        threading.Thread(target=self.listen, args=(self.process, self.said), daemon=True).start()
        self.facts = self.hear(limit)

    @staticmethod
    def listen(process, said):
        for line in process.stdout:
            if line.startswith("{"):
                said.put(line)
        said.put(None)

    def hear(self, limit):
        try:
            line = self.said.get(timeout=limit)
        except queue.Empty:
            self.kill()
            return {"error": f"stopped after {limit:.0f} s"}
        if line is None:
            self.kill()
            return {"error": "PyTorch's process ended"}
        return json.loads(line)

    def ask(self, task, limit):
        """What torch_models.py serves says of a task; {"error": ...} instead, also after the limit."""
        if not self.there:
            return {"error": f"no torch: {self.why}"}
        if self.process is None:
            self.start(limit)
            if "error" in self.facts:  # it will not start the next time
                self.there, self.why = False, self.facts["error"]
                return self.facts
        self.process.stdin.write(json.dumps({"device": self.device, **task}) + "\n")
        self.process.stdin.flush()
        return self.hear(limit)

    def kill(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self):
        self.kill()
