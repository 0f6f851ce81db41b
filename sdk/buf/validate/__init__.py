"""Generated contracts of `buf.validate`; `make gen` writes them."""
