"""OpenID Connect: who people and programs are by a provider's word. Owns providers, links and trusts, not sessions."""
