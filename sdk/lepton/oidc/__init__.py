"""Signing in at an OpenID provider from a command line: what the client does. Whether the token holds, auth decides."""
