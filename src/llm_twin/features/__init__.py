"""Features: documents become chunks, embeddings, voice profiles and a published index."""
