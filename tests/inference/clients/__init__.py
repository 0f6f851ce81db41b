"""Other people's clients, unchanged but for a certificate and a token, through real Envoy to real Triton."""
