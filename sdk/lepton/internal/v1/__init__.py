"""Generated contracts of `lepton.internal.v1`; `make gen` writes them."""
