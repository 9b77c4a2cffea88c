"""One package per framework: reads its batch-norm layers as Spec and State.

A dialect's framework is imported inside functions only.
"""
