"""The page for Prometheus: names and types that dashboards rely on."""

from prometheus_client.parser import text_string_to_metric_families

from leanlens.serve.metrics import ServerMetrics


def test_names_types_and_labels_are_those_of_before():
    metrics = ServerMetrics()
    metrics.gauge("leanlens_queue_pictures", "Images that wait.", lambda: 3)
    metrics.requests.labels(door="v1", status=200).inc()
    metrics.images.labels(state="done").inc(2)
    metrics.wait_seconds.observe(0.3)
    families = {family.name: family for family in text_string_to_metric_families(metrics.page())}
    assert {name: family.type for name, family in families.items()} == {
        "leanlens_requests": "counter",  # the parser takes the suffix _total off
        "leanlens_pictures": "counter",
        "leanlens_batches": "counter",
        "leanlens_model_openings": "counter",
        "leanlens_wait_seconds": "histogram",
        "leanlens_draw_seconds": "histogram",
        "leanlens_queue_pictures": "gauge",
    }
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["leanlens_requests_total", ("door", "v1"), ("status", "200")] == 1
    assert samples["leanlens_pictures_total", ("state", "done")] == 2
    assert samples[("leanlens_batches_total",)] == 0
    assert samples["leanlens_wait_seconds_bucket", ("le", "0.25")] == 0
    assert samples["leanlens_wait_seconds_bucket", ("le", "0.5")] == 1
    assert samples[("leanlens_queue_pictures",)] == 3
    assert not [name for name, *_ in samples if name.endswith("_created")]
