"""Everything that puts Lepton on a machine: its tools, its generated code, the one-machine stack and the demo.

It runs the services as programs and never decides for them: what happens inside a service belongs to `services`.
"""
