"""Generated contracts of `lepton.scheduler`; `make gen` writes them."""
