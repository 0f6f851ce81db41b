"""Generated contracts of `lepton.policy.v1`; `make gen` writes them."""
