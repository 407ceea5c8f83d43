"""Reading the config folder: whole versions or nothing, however the folder is written."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from modelyard_router.errors import ConfigError
from modelyard_router.files import RunFolder, change_mark, fill_in, read_config
from modelyard_runtime.contract import RouterFile


def _files(version: str) -> dict[str, str]:
    content = json.dumps({"version_info": version, "resources": [], "padding": "x" * 50_000})
    return {"bootstrap.json": json.dumps({"v": version}), "cds.json": content, "rds.json": content, "version": version}


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_volume_that_is_swapped_all_the_time_is_never_read_as_a_mixture(tmp_path: Path) -> None:
    for generation in ("1", "2"):
        _write(tmp_path / f"..{generation}", _files(generation))
    (tmp_path / "..data").symlink_to("..1")
    over = threading.Event()

    def swap() -> None:
        generation = 0
        while not over.is_set():
            generation += 1
            (tmp_path / "..new").symlink_to(f"..{generation % 2 + 1}")
            (tmp_path / "..new").rename(tmp_path / "..data")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        read = [read_config(tmp_path) for _ in range(500)]
    finally:
        over.set()
        thread.join()

    assert {files.version for files in read} == {"1", "2"}
    assert all(
        (files.bootstrap["v"], files.cds["version_info"], files.rds["version_info"]) == (files.version,) * 3
        for files in read
    )


def test_a_plain_folder_counts_only_once_all_its_files_are_of_one_version(tmp_path: Path) -> None:
    _write(tmp_path, _files("1"))
    mark = change_mark(tmp_path)
    new = _files("2")

    for name in ("bootstrap.json", "cds.json", "rds.json"):
        (tmp_path / name).write_text(new[name])
        if name != "bootstrap.json":
            with pytest.raises(ConfigError, match="version"):
                read_config(tmp_path)
    (tmp_path / "version").write_text("2")

    assert read_config(tmp_path).version == "2"
    assert change_mark(tmp_path) != mark


def test_a_missing_folder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        read_config(tmp_path / "nowhere")


def test_placeholders_are_filled_in_and_a_resolver_is_added_only_if_asked() -> None:
    bootstrap = {"a": ["${X}/sock"], "b": 1}

    assert fill_in(bootstrap, {"${X}": "/run"}, None) == {"a": ["/run/sock"], "b": 1}
    resolver = fill_in(bootstrap, {}, "[::1]:53")["typed_dns_resolver_config"]["typed_config"]["resolvers"]
    assert resolver == [{"socket_address": {"address": "::1", "port_value": 53}}]
    with pytest.raises(ConfigError, match="ADDRESS:PORT"):
        fill_in(bootstrap, {}, "localhost")


def test_a_run_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter path"):
        RunFolder(tmp_path / ("x" * 100))


def test_writing_the_same_content_again_touches_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    run.write(RouterFile.CDS, {"version_info": "1"})
    place = tmp_path / "r" / "cds" / "cds.json"
    before = place.stat()

    run.write(RouterFile.CDS, {"version_info": "1"})

    assert place.stat().st_ino == before.st_ino
    assert [path.name for path in place.parent.iterdir()] == ["cds.json"]
