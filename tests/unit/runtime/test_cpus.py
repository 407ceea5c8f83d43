"""The processors that a process may use, from control groups of both versions, and the thread pools that follow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from modelyard_runtime.dataplane.cpus import available_cpus, limit_thread_pools, quota_cpus


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/kubepods/pod1/c1\n", {"cpu.max": "max 100000\n", "kubepods/pod1/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/only/on/the/host\n", {"cpu.max": "400000 100000\n"}, 4.0),
        ("0::/a\n", {"cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        (
            "4:memory:/pod\n3:cpu,cpuacct:/pod\n",
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_quota_of_a_control_group(own: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    write(tmp_path, {"own": own})
    write(tmp_path / "cgroup", files)

    assert quota_cpus(tmp_path / "cgroup", tmp_path / "own") == expected


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert quota_cpus(tmp_path / "none", tmp_path / "nothing") is None
    assert available_cpus() >= 1


def test_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("modelyard_runtime.dataplane.cpus.quota_cpus", lambda: 5.5)

    assert [available_cpus(workers) for workers in (1, 2, 4, 16)] == [6, 3, 1, 1]


def test_a_users_own_number_of_threads_stays() -> None:
    environ = {"OMP_NUM_THREADS": "8"}

    limit_thread_pools(environ, 2)

    assert (environ["OMP_NUM_THREADS"], environ["OPENBLAS_NUM_THREADS"]) == ("8", "2")


def test_the_server_sets_them_before_numpy_is_imported() -> None:
    code = (
        "import sys, modelyard_runtime.__main__ as main\n"
        "assert 'numpy' not in sys.modules\n"
        "import os; os.environ.pop('OMP_NUM_THREADS', None)\n"
        "main.available_cpus = lambda: 3\n"
        "from modelyard_runtime.settings import Settings\n"
        "os.environ['MODELYARD_MODEL_NAME'] = 'm'\n"
        "class Stop(Exception): pass\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy':\n"
        "            print(os.environ.get('OMP_NUM_THREADS')); raise Stop\n"
        "sys.meta_path.insert(0, Watch())\n"
        "try: main.main()\n"
        "except Stop: pass\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "3\n"
