"""What can go wrong, as one tree. Every message is one sentence: what is wrong, where, and what to do.

GossamerError
├── ModelError       the model is missing, unreadable, or of a kind that cannot be compressed
├── TextError        the calibration or test text is missing, empty or too short
├── BudgetError      the budget is malformed, out of reach or needless
├── PlanError        the plan does not fit the model, or names what does not exist
├── WorkError        the working folder is damaged or belongs to something else
├── OutputError      the output folder is taken, or the disk is full
├── ResourceError    the machine has too little memory for the job
└── NumericsError    weights, activations or gradients are not finite
"""


class GossamerError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback."""


class ModelError(GossamerError):
    """The model is missing, unreadable, or of a kind that cannot be compressed."""


class TextError(GossamerError):
    """The calibration or test text is missing, empty or too short."""


class BudgetError(GossamerError):
    """The budget is malformed, out of reach or needless."""


class PlanError(GossamerError):
    """The plan does not fit the model, or names what does not exist."""


class WorkError(GossamerError):
    """The working folder is damaged or belongs to something else."""


class OutputError(GossamerError):
    """The output folder is taken, or the disk is full."""


class ResourceError(GossamerError):
    """The machine has too little memory for the job."""


class NumericsError(GossamerError):
    """Weights, activations or gradients are not finite."""
