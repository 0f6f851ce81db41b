"""Generated contracts of `lepton.trainer`; `make gen` writes them."""
