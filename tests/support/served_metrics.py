"""What a service's /metrics says, read by a client of it."""

from prometheus_client.parser import text_string_to_metric_families


def samples(client):
    """Every sample of /metrics: (name, sorted labels) -> value."""
    text = client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(client, metric, /, **labels):
    return samples(client).get((metric, tuple(sorted(labels.items()))), 0.0)
