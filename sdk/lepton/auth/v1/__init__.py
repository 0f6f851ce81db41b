"""Generated contracts of `lepton.auth.v1`; `make gen` writes them."""
