"""Generated contracts of `lepton.trainer.v1`; `make gen` writes them."""
