"""What planning by hand needs: programs that answer in numbers, and change nothing.

Owns the allocation of demands to pools as a linear program, the elastic scaling program, and the load balancing
policies. Does not own where slices are placed: that is the planner's.
"""
