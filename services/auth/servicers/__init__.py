"""The RPCs of auth, a file per service: convert in, call, convert out."""
