"""What the handlers use of GitHub's payloads; whatever else these hold is ignored."""

__all__ = ("Event", "IssueEvent", "PullRequestEvent", "PushEvent")

from pydantic import BaseModel


class User(BaseModel):
    login: str


class Event(BaseModel):
    """Any delivery; a security advisory, for one, has no sender."""

    sender: User | None = None


class Issue(BaseModel):
    number: int
    title: str


class IssueEvent(BaseModel):
    action: str
    issue: Issue


class PullRequest(BaseModel):
    draft: bool
    merged: bool


class PullRequestEvent(BaseModel):
    action: str
    pull_request: PullRequest


class Commit(BaseModel):
    id: str


class PushEvent(BaseModel):
    """A push of commits; of none, where a branch or a tag was made, moved or deleted."""

    ref: str
    commits: list[Commit]
