"""Inference: a question becomes an answer with citations, a topic a draft."""
