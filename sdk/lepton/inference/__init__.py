"""Generated contracts of `lepton.inference`; `make gen` writes them."""
