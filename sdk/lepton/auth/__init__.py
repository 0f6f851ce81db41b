"""Generated contracts of `lepton.auth`; `make gen` writes them."""
