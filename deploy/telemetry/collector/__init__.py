"""The one-machine stack's trace collector: receives OTLP over gRPC and HTTP, keeps spans, answers by trace id.

It stands in for an OpenTelemetry Collector with a trace backend where neither can be installed; everything that
sends to it speaks plain OTLP and can be pointed at a real one by changing an address.

It is a member of the mesh, `service/collector`: spans come over TLS under its certificate, from anybody who trusts it,
and are read by those who are signed in.
"""
