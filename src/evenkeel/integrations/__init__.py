"""Layers and callbacks inside other frameworks; each module imports its own framework."""
