"""The handlers: each keeps a tally of what it is given."""

__all__ = ("Handlers",)

from collections import Counter, defaultdict

from eventbus import handles
from examples.webhooks.models import Event, IssueEvent, PullRequestEvent, PushEvent


class Handlers:
    """Handlers of GitHub's deliveries; `tallies` holds what each has counted, by its name."""

    def __init__(self) -> None:
        self.tallies: defaultdict[str, Counter[str]] = defaultdict(Counter)

    @handles("github.issues.*", model=IssueEvent, name="issues")
    async def count_issues(self, event: IssueEvent) -> None:
        self.tallies["issues"][event.action] += 1

    @handles("github.pull_request.*", model=PullRequestEvent, name="pull_requests")
    async def count_pull_requests(self, event: PullRequestEvent) -> None:
        state = "draft" if event.pull_request.draft else "ready"
        self.tallies["pull_requests"]["merged" if event.pull_request.merged else state] += 1

    @handles("github.push", model=PushEvent, name="pushes")
    async def count_pushes(self, event: PushEvent) -> None:
        self.tallies["pushes"]["with commits" if event.commits else "without commits"] += 1

    @handles("github.>", model=Event, name="everything")
    async def count_senders(self, event: Event) -> None:
        self.tallies["everything"][event.sender.login if event.sender else "(no sender)"] += 1
