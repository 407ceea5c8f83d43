"""Which fields are ours, as the API server keeps it, and giving one of them up."""

from modelyard_operator.kube.ownership import has_field, without_field

REPLICAS = ("f:spec", "f:replicas")


def _entry(manager: str, operation: str, **spec: object) -> dict[str, object]:
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": spec}}


def test_a_field_is_given_up_by_its_manager_alone_and_the_rest_stays() -> None:
    managed = [
        _entry("modelyard", "Apply", **{"f:replicas": {}, "f:selector": {}}),
        _entry("modelyard", "Update", **{"f:replicas": {}}),
        _entry("other", "Apply", **{"f:replicas": {}}),
    ]

    left = without_field(managed, "modelyard", REPLICAS)

    assert left == [_entry("modelyard", "Apply", **{"f:selector": {}}), *managed[1:]]
    assert "f:replicas" in str(managed[0])


def test_a_field_that_is_not_owned_is_none_to_give_up() -> None:
    managed = [_entry("modelyard", "Apply", **{"f:selector": {}})]

    assert without_field(managed, "modelyard", REPLICAS) == managed
    assert not has_field({}, REPLICAS)
