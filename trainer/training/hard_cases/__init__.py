"""Hard cases mining (paper, section 4): what the stage-1 model answers wrong is trained on more often in stage 2.

Read in this order: command (`python -m trainer hard-cases`), find (the model answers the training set), cases (which
are hard), record (`hard-cases.json`), summary (a page), curriculum (the order of stage 2).
"""

from trainer.training.hard_cases.cases import Cases, HardCasesError, find_cases
from trainer.training.hard_cases.curriculum import HCM_PARTS, Curriculum, Part, epoch_sizes, make_curriculum

__all__ = ["HCM_PARTS", "Cases", "Curriculum", "HardCasesError", "Part", "epoch_sizes", "find_cases", "make_curriculum"]
