"""Collect: sources become documents in the warehouse."""
