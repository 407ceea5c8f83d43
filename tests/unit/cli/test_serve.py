"""`modelyard serve`: one model, one process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from modelyard_local.addresses import AddressBlock


def test_a_model_is_served_until_interrupted(tmp_path: Path) -> None:
    """Under the name of its file, unless another is given."""
    block = AddressBlock.claim(None)  # an address of our own, so that the port is free
    (tmp_path / "model.json").write_text(json.dumps({"type": "linear", "weights": [1, 2], "bias": 0.5}))
    command = [sys.executable, "-m", "modelyard_cli.main", "serve", f"file://{tmp_path}/model.json", "--name", "sum"]
    process = subprocess.Popen([*command, "--host", block.pod(1), "--port", "8080"], stderr=subprocess.PIPE)
    answer = None
    end = time.monotonic() + 60
    request = urllib.request.Request(
        f"http://{block.pod(1)}:8080/predict", b'{"features": [1, 1]}', {"content-type": "application/json"}
    )
    while answer is None:
        assert time.monotonic() < end
        assert process.poll() is None
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = json.load(response)
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    block.release()

    assert (answer["prediction"], answer["model_name"]) == (3.5, "sum")
    assert b"Traceback" not in err
