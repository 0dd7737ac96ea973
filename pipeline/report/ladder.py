from pathlib import Path

from ganlib.metrics.calibration import Calibration
from ganlib.metrics.faults import Held


def ladder(path: Path, calibration: Calibration, held: Held) -> None: ...
def curves(path: Path, calibration: Calibration) -> None: ...
