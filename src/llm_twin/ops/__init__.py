"""Ops: what keeps a twin running well for months: keys, feedback."""
