"""Health, metrics, models and the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families
from unit.runtime.support import Api, FakeModel

Serve = Callable[..., Api]
PLAIN = (
    "/health",
    "/health/live",
    "/health/ready",
    "/health/serving",
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
)


@pytest.fixture
def api(serve: Serve) -> Api:
    return serve({"m": FakeModel()})


def health(api: Api) -> dict[str, int]:
    paths = ("/health", "/health/live", "/health/ready", "/health/serving")
    return {path: api.send("GET", path).status_code for path in paths}


def test_health_while_loading(serve: Serve) -> None:
    api = serve({})
    api.app.registry.expect("m")

    statuses = health(api)

    assert statuses == {"/health": 503, "/health/live": 200, "/health/ready": 503, "/health/serving": 503}
    assert api.send("GET", "/health").json() == {"status": "loading", "models": {"m": "loading"}}


def test_health_when_ready(api: Api) -> None:
    statuses = health(api)

    assert statuses == {"/health": 200, "/health/live": 200, "/health/ready": 200, "/health/serving": 200}
    assert api.send("GET", "/health/ready").json() == {"status": "ready", "models": {"m": "ready"}}


def test_health_while_draining(api: Api) -> None:
    api.drain.on_terminate()

    statuses = health(api)

    assert statuses == {"/health": 503, "/health/live": 200, "/health/ready": 503, "/health/serving": 200}
    assert api.send("GET", "/health").json() == {"status": "draining", "models": {"m": "ready"}}


def test_health_after_a_failed_load(serve: Serve) -> None:
    api = serve({})
    api.app.registry.expect("m")
    api.app.registry.fail("m")

    response = api.send("GET", "/health/ready")

    assert (response.status_code, response.json()) == (503, {"status": "failed", "models": {"m": "failed"}})


def test_a_server_without_models_is_not_ready(serve: Serve) -> None:
    assert serve({}).send("GET", "/health/ready").status_code == 503


def test_metrics_without_requests_have_rate_0(api: Api) -> None:
    body = api.send("GET", "/metrics", headers={"accept": "application/json"}).json()

    assert body == {"request_count": 0, "error_count": 0, "error_rate": 0.0, "avg_latency_ms": 0.0, "models": {}}


def test_metrics_as_json_count_requests_and_errors(api: Api) -> None:
    for features in ([1, 2], [3, 4], [1]):
        api.predict({"features": features})
    api.predict(b"")

    body = api.send("GET", "/metrics", headers={"accept": "application/json"}).json()

    latencies = [body.pop("avg_latency_ms"), body["models"]["m"].pop("avg_latency_ms")]
    assert min(latencies) > 0
    assert body == {
        "request_count": 4,
        "error_count": 2,
        "error_rate": 0.5,
        "models": {"m": {"request_count": 3, "error_count": 1, "error_rate": 1 / 3}},
    }


def test_metrics_as_prometheus_text(api: Api) -> None:
    for _ in range(2):
        api.predict({"features": [1, 2], "use_cache": True})
    api.app.metrics.loaded("m", "1", "linear", "sha256:00", 0.25)

    response = api.send("GET", "/metrics")

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert samples["modelyard_requests_total", "200", "m", "predict", "1"] == 2
    assert samples["modelyard_request_duration_seconds_count", "m", "predict", "1"] == 2
    assert samples["modelyard_cache_hits_total", "m"] == 1
    assert samples["modelyard_cache_misses_total", "m"] == 1
    assert samples["modelyard_in_flight_requests",] == 0
    assert samples["modelyard_model_info", "sha256:00", "linear", "m", "1"] == 1
    assert samples["modelyard_model_load_seconds", "m", "1"] == 0.25


def test_metrics_as_openmetrics_when_asked(api: Api) -> None:
    response = api.send("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_made_up_model_names_do_not_grow_the_metrics(api: Api) -> None:
    for index in range(20):
        api.predict({"model_name": f"x{index}", "features": [1, 2]})

    text = api.send("GET", "/metrics").text

    assert 'modelyard_requests_total{code="404",model="",protocol="predict",version=""} 20.0' in text
    assert "x1" not in text


def test_models_describe_themselves(api: Api) -> None:
    api.predict({"features": [1, 2]})

    model = api.send("GET", "/models/m").json()

    assert api.send("GET", "/models").json() == {"models": [model]}
    assert model["counts"].pop("avg_latency_ms") > 0
    assert model == {
        "name": "m",
        "state": "ready",
        "version": "1",
        "format": "linear",
        "digest": "sha256:00",
        "uri": "file:///m",
        "inputs": [{"name": "features", "datatype": "FP64", "shape": [-1, 2]}],
        "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
        "feature_names": None,
        "compiled": "original",
        "compiled_reason": None,
        "batching": True,
        "batching_reason": "its rows are independent by construction",
        "metadata": {},
        "counts": {"request_count": 1, "error_count": 0, "error_rate": 0.0},
    }


def test_a_model_that_loads_is_listed(serve: Serve) -> None:
    api = serve({})
    api.app.registry.expect("m")

    assert api.send("GET", "/models").json() == {"models": [{"name": "m", "state": "loading"}]}


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/models/x", 404, "no model 'x' is served here; see GET /models"),
        ("GET", "/nothing", 404, "there is no /nothing; see /docs for what there is"),
        ("POST", "/predict/", 404, "there is no /predict/; see /docs for what there is"),
        ("POST", "/models", 403, "edit the ModelDeployment's spec.model"),
        ("DELETE", "/models/m", 403, "edit the ModelDeployment's spec.model"),
        ("POST", "/models/m/versions/2/activate", 403, "edit the ModelDeployment's spec.model"),
        ("PUT", "/models/m", 405, "PUT /models/m is not allowed; use"),
        ("POST", "/health", 405, "POST /health is not allowed; use GET"),
        ("OPTIONS", "/predict/batch", 405, "use POST"),
    ],
)
def test_other_requests_are_refused_with_a_reason(method: str, path: str, status: int, message: str, api: Api) -> None:
    response = api.send(method, path)

    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert response.status_code == status


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_health_and_metrics_are_for_get_alone(method: str, path: str, api: Api) -> None:
    response = api.send(method, path)

    body = b"" if method == "HEAD" else b'{"error":"%b %b is not allowed; use GET"}' % (method.encode(), path.encode())
    assert (response.status_code, response.content) == (405, body)
    assert response.headers["allow"] == "GET"
    assert response.headers["content-type"] == "application/json"
    assert "connection" not in response.headers


@pytest.mark.parametrize("path", [*PLAIN, "/models", "/nothing"])
def test_answers_of_a_server_that_drains_close_the_connection(path: str, api: Api) -> None:
    api.drain.on_terminate()

    for method in ("GET", "PUT"):
        assert api.send(method, path).headers["connection"] == "close"


def test_health_and_metrics_have_no_other_spelling(api: Api) -> None:
    statuses = {path: api.send("GET", f"{path}/").status_code for path in PLAIN}

    assert statuses == dict.fromkeys(PLAIN, 404)


def test_a_bug_in_a_scrape_is_logged_and_not_shown(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("a secret")

    monkeypatch.setattr(api.app.metrics, "counts_json", fail)

    response = api.send("GET", "/metrics", headers={"accept": "application/json"})

    assert (response.status_code, response.json()) == (500, {"error": "the server failed; its log says why"})
    assert "GET /metrics failed" in caplog.text


def test_openapi_describes_every_route(api: Api) -> None:
    document = api.send("GET", "/openapi.json").json()

    assert {(method, path) for path, item in document["paths"].items() for method in item} == {
        ("post", "/predict"),
        ("post", "/predict/batch"),
        ("get", "/health"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/health/serving"),
        ("get", "/metrics"),
        ("get", "/models"),
        ("post", "/models"),
        ("get", "/models/{name}"),
        ("delete", "/models/{name}"),
        ("post", "/models/{name}/versions/{version}/activate"),
        ("get", "/v2"),
        ("get", "/v2/health/live"),
        ("get", "/v2/health/ready"),
        ("get", "/v2/models/stats"),
        *(
            (method, f"/v2/models/{{name}}{version}{path}")
            for version in ("", "/versions/{version}")
            for method, path in (
                ("get", ""),
                ("get", "/ready"),
                ("get", "/config"),
                ("get", "/stats"),
                ("post", "/infer"),
            )
        ),
        ("post", "/v2/repository/index"),
        ("post", "/v2/repository/models/{name}/load"),
        ("post", "/v2/repository/models/{name}/unload"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{name}"),
        ("post", "/v1/models/{name}:predict"),
        ("post", "/v1/models/{name}/versions/{version}:predict"),
    }


def test_the_openapi_document_is_valid(api: Api) -> None:
    document = api.send("GET", "/openapi.json").json()

    OpenAPIV31SpecValidator(document).validate()
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = [one["name"] for one in operation.get("parameters", []) if one["in"] == "path"]
            assert sorted(declared) == sorted(re.findall(r"{(\w+)}", path)), path


def test_openapi_references_resolve(api: Api) -> None:
    document = api.send("GET", "/openapi.json").json()

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names <= set(document["components"]["schemas"])
    assert {"PredictRequest", "PredictResponse", "BatchRequest", "BatchResponse", "ErrorBody"} <= names
