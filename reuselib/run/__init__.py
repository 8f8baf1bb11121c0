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

__all__ = [
    "Cost",
    "History",
    "Job",
    "Method",
    "Needs",
    "Precision",
    "Prediction",
    "Result",
    "SCALES",
    "SUSTAINED",
    "Schedule",
    "Settings",
    "Study",
    "Timing",
    "accuracy",
    "adam",
    "constant",
    "cosine",
    "count_passes",
    "device",
    "device_of",
    "divisor",
    "frozen",
    "generator",
    "interleaved",
    "load_checkpoint",
    "measured",
    "on_device",
    "one_cycle",
    "one_tensor",
    "precision",
    "probe",
    "run",
    "save_checkpoint",
    "seeded",
    "sgd",
    "step_decay",
    "threads",
    "write_sheet",
]
