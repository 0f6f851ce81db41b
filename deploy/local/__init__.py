"""The one-machine stack: every service of the mesh, etcd, Envoy and three agents as processes of one supervisor."""
