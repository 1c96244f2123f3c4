"""One file per outside system: its library is imported here and nowhere else."""

import sys

# `import openvino` sends usage statistics to a third party, without asking, unless this package cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
