"""Between the protos on the wire and in etcd, and the frozen values that the planner works on."""
