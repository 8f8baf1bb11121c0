"""Everything a run needs that is not its method: device, precision, seeds, progress, checkpoints, guards, cost.

It knows no method: it drives whatever has ``step()`` and ``rounds()`` (see :class:`Method`).
"""

from reuselib.run.checkpoint import load_checkpoint, save_checkpoint
from reuselib.run.cost import SUSTAINED, Cost, Prediction, Timing, count_passes, interleaved, measured
from reuselib.run.device import Precision, device, device_of, generator, precision, seeded, threads
from reuselib.run.loop import History, accuracy, divisor, run
from reuselib.run.method import Method, Schedule, adam, constant, cosine, frozen, on_device, one_cycle, sgd, step_decay
from reuselib.run.needs import Needs
from reuselib.run.outputs import one_tensor, probe
from reuselib.run.study import SCALES, Job, Result, Settings, Study, write_sheet

__all__ = ["accuracy", "adam", "constant", "cosine", "Cost", "count_passes", "device", "device_of", "divisor"]
__all__ += ["frozen", "generator", "History", "interleaved", "Job", "load_checkpoint", "measured", "Method", "Needs"]
__all__ += ["on_device", "one_cycle", "one_tensor", "Precision", "precision", "Prediction", "probe", "Result", "run"]
__all__ += ["save_checkpoint", "SCALES", "Schedule", "seeded", "Settings", "sgd", "step_decay", "Study", "SUSTAINED"]
__all__ += ["threads", "Timing", "write_sheet"]
