"""Generated contracts of `lepton.scheduler.v1`; `make gen` writes them."""
