"""Generated contracts of `lepton.inference.v1`; `make gen` writes them."""
