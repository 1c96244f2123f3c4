"""`python -m llm_twin` is `twin`."""

from llm_twin.cli import main

main()
