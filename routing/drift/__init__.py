"""Has a model changed without saying so? Banked conversations asked again, and a watch on live labels."""

from routing.drift.bank import Choice as Choice
from routing.drift.bank import Entry as Entry
from routing.drift.bank import choose_bank as choose_bank
from routing.drift.residuals import ResidualWatch as ResidualWatch
from routing.drift.watch import Alarm as Alarm
from routing.drift.watch import Reading as Reading
from routing.drift.watch import Replayed as Replayed
from routing.drift.watch import Review as Review
from routing.drift.watch import RunAlreadyTaken as RunAlreadyTaken
from routing.drift.watch import UnreadableWatch as UnreadableWatch
from routing.drift.watch import Watch as Watch
from routing.drift.watch import review as review
