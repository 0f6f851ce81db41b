"""Generated contracts of `lepton.policy`; `make gen` writes them."""
