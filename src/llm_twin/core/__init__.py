"""The words every part shares: records, ports, the error tree, pipelines, prompts, and pure functions over text."""
