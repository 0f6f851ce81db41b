"""Generated contracts of `lepton.internal`; `make gen` writes them."""
