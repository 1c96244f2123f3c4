"""The service: the twin over HTTP. `app.py` is its table of contents, `run.py` runs it."""
