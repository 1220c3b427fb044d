"""How the daemon is: the figures, and every reason why it is not ok.

``Vitals`` is what is looked at, ``condition`` looks. The reasons stand in modules by
what they are about; ``troubles`` has the table of all of them.
"""

from tallymarkd.health.condition import condition, status_line
from tallymarkd.health.vitals import Vitals

__all__ = ["Vitals", "condition", "status_line"]
