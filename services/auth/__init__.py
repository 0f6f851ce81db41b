"""The auth service: tenants, principals, credentials, roles, the access policy, the mesh CA and the audit trail.

It does not enforce anybody else's policy: every service decides locally, from the policy that it streams from here.
"""
