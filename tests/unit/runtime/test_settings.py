"""Settings from the environment: defaults, every variable, and errors that name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelyard_runtime.errors import SettingsError
from modelyard_runtime.settings import Settings


def test_a_name_is_enough() -> None:
    settings = Settings.from_env({"MODELYARD_MODEL_NAME": "churn"})

    assert settings == Settings(model_name="churn")
    assert (settings.host, settings.port, settings.timeout, settings.drain_delay) == ("0.0.0.0", 8080, 30.0, 5.0)


def test_the_port_of_grpc_moves_with_the_other() -> None:
    usual = Settings.from_env({"MODELYARD_MODEL_NAME": "churn"})
    moved = Settings.from_env({"MODELYARD_MODEL_NAME": "churn", "MODELYARD_PORT": "8081"})

    assert (usual.grpc_port, moved.grpc_port) == (9000, 0)


def test_every_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "MODELYARD_MODEL_NAME": "churn",
            "MODELYARD_MODEL_DIR": "/data",
            "MODELYARD_MODEL_URI": "file:///m",
            "MODELYARD_MODEL_FORMAT": "linear",
            "MODELYARD_MODEL_VERSION": "4",
            "MODELYARD_HOST": "127.0.0.9",
            "MODELYARD_PORT": "0",
            "MODELYARD_GRPC_PORT": "9001",
            "MODELYARD_CACHE_TTL": "0.5",
            "MODELYARD_CACHE_MAX_BYTES": "0",
            "MODELYARD_MAX_BODY_BYTES": "1024",
            "MODELYARD_TIMEOUT": "2",
            "MODELYARD_ALLOW_PICKLE": "true",
            "MODELYARD_BATCHABLE": "false",
            "MODELYARD_MAX_QUEUE": "7",
            "MODELYARD_BATCH_MAX_ROWS": "1",
            "MODELYARD_BATCH_MAX_DELAY": "0.005",
            "MODELYARD_MAX_CONNECTION_AGE": "0",
            "MODELYARD_WARMUP_REQUESTS": "3",
            "MODELYARD_LOG_FORMAT": "json",
            "MODELYARD_LOG_LEVEL": "debug",
            "MODELYARD_WORKERS": "4",
            "MODELYARD_DRAIN_DELAY": "0",
            "MODELYARD_TERMINATION_LOG": "/tmp/log",
        }
    )

    assert settings == Settings(
        model_name="churn",
        model_dir=Path("/data"),
        model_uri="file:///m",
        model_format="linear",
        model_version="4",
        host="127.0.0.9",
        port=0,
        grpc_port=9001,
        cache_ttl=0.5,
        cache_max_bytes=0,
        max_body_bytes=1024,
        timeout=2.0,
        max_queue=7,
        batch_max_rows=1,
        batch_max_delay=0.005,
        max_connection_age=0.0,
        warmup_requests=3,
        allow_pickle=True,
        batchable=False,
        log_format="json",
        log_level="debug",
        workers=4,
        drain_delay=0.0,
        termination_log=Path("/tmp/log"),
    )


def test_an_admin_token_is_for_one_process() -> None:
    environ = {"MODELYARD_MODEL_NAME": "churn", "MODELYARD_ADMIN_TOKEN_FILE": "/run/token"}

    alone = Settings.from_env(environ)
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**environ, "MODELYARD_WORKERS": "2"})

    assert alone.admin_token_file == Path("/run/token")
    assert "leave out --admin-token-file (MODELYARD_ADMIN_TOKEN_FILE) or --workers" in caught.value.message


def test_an_empty_variable_counts_as_not_given() -> None:
    settings = Settings.from_env({"MODELYARD_MODEL_NAME": "churn", "MODELYARD_PORT": "", "MODELYARD_TIMEOUT": ""})

    assert settings == Settings(model_name="churn")


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("MODELYARD_MODEL_NAME", "", "is not set"),
        ("MODELYARD_PORT", "http", "from 0 to 65535"),
        ("MODELYARD_PORT", "70000", "from 0 to 65535"),
        ("MODELYARD_MAX_BODY_BYTES", "0", "of at least 1"),
        ("MODELYARD_CACHE_MAX_BYTES", "-1", "of at least 0"),
        ("MODELYARD_BATCH_MAX_ROWS", "0", "of at least 1"),
        ("MODELYARD_WORKERS", "0", "from 1 to 64"),
        ("MODELYARD_WORKERS", "65", "from 1 to 64"),
        ("MODELYARD_WORKERS", "two", "from 1 to 64"),
        ("MODELYARD_LOG_FORMAT", "xml", "plain, json"),
        ("MODELYARD_TIMEOUT", "30s", "seconds as a number"),
        ("MODELYARD_TIMEOUT", "0", "above 0"),
        ("MODELYARD_TIMEOUT", "nan", "seconds as a number"),
        ("MODELYARD_DRAIN_DELAY", "-1", "of at least 0"),
        ("MODELYARD_CACHE_TTL", "inf", "seconds as a number"),
    ],
)
def test_a_wrong_value_is_refused_by_name(variable: str, value: str, advice: str) -> None:
    environ = {"MODELYARD_MODEL_NAME": "churn", variable: value}

    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)

    assert variable in caught.value.message
    assert advice in caught.value.message
