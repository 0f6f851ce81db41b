"""Callers who mean harm, against the whole data plane: real Envoy, real Triton, and a good model whose calls go on."""
