"""Reads where traces are sent from OpenTelemetry's own variables, so that an operator sets the same ones everywhere."""

from __future__ import annotations

from collections.abc import Mapping

from service.config.settings import SettingsError

TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
EVERYTHING = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PATH = "/v1/traces"


def traces_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return the URL that takes spans by OTLP over HTTP, or None if tracing is off.

    Raises:
        SettingsError: the URL or the protocol cannot be used.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    variable = TRACES if environment.get(TRACES) else EVERYTHING
    url = environment.get(variable, "")
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{variable}: {url!r} is not an http or https URL, such as http://collector:4318.")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := environment.get(name)) is not None:
            if protocol != "http/protobuf":
                raise SettingsError(
                    f"{name}: the service sends traces as http/protobuf, not as {protocol!r}. Set it to http/protobuf, "
                    "and the endpoint to the collector's port for HTTP (by default 4318)."
                )
            break
    return url if variable == TRACES else url.removesuffix("/") + _PATH
