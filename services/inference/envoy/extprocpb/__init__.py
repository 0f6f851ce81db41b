"""Generated contracts of `services.inference.envoy.extprocpb`; `make gen` writes them."""
