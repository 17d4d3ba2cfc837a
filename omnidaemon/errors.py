"""The errors that OmniDaemon raises, and the two signals that an agent raises to it.

    OmniDaemonError
    ├── ConfigurationError        something was set up wrongly; nothing has run
    │   ├── UnknownBackend        a URL scheme or backend name that no table lists
    │   ├── MissingExtra          the backend is known, its optional packages are not installed
    │   ├── ImportStringError     "module:attribute" that leads nowhere
    │   └── InvalidSettings       an environment variable or an option with a value out of range
    ├── DecodeError               bytes that are not an envelope
    ├── PayloadError              a value that cannot travel: not serializable, too large, NaN, ...
    ├── TransportError            the broker (or the file) failed
    │   ├── ConnectionLost        it cannot be reached; says whether the event may be stored
    │   ├── LeaseLost             the delivery belongs to another consumer by now
    │   ├── BacklogFull           the configured bound on unread events is reached
    │   └── Unsupported           this backend cannot do that
    ├── StoreError                the store failed
    └── AgentError
        ├── AgentNotFound
        ├── DuplicateAgent
        ├── TaskNotFound          no event, result or dead letter with that id (any more)
        ├── ResultTimeout         the wait ended before the result came; the task goes on
        └── TaskFailed            every group that had the task gave it up

Signals, raised by agents and caught by the worker: Retry, Reject.
"""

from __future__ import annotations


class OmniDaemonError(Exception):
    """The base of every error here."""


class ConfigurationError(OmniDaemonError):
    """Something was set up wrongly; nothing has run yet."""


class UnknownBackend(ConfigurationError):
    """A scheme or backend name that no table lists."""


class MissingExtra(ConfigurationError):
    """A known backend or feature whose optional packages are not installed."""


class ImportStringError(ConfigurationError):
    """A "module:attribute" string that does not lead to the object asked for."""


class InvalidSettings(ConfigurationError):
    """A setting or an option that has no usable value."""


class DecodeError(OmniDaemonError):
    """Bytes that are not an envelope of a version known here."""


class PayloadError(OmniDaemonError):
    """A value that cannot travel in an envelope or be kept as a result."""


class TransportError(OmniDaemonError):
    """The broker failed to do what was asked."""


class ConnectionLost(TransportError):
    """The broker cannot be reached.

    Attributes:
        may_be_stored: True if the event may have been stored before the connection went.
    """

    def __init__(self, message: str, *, may_be_stored: bool = False) -> None:
        super().__init__(message)
        self.may_be_stored = may_be_stored


class LeaseLost(TransportError):
    """The delivery belongs to another consumer by now; nothing of it was settled."""


class BacklogFull(TransportError):
    """The topic holds as many unsettled events as its bound allows; nothing was stored."""


class Unsupported(TransportError):
    """This backend cannot do what was asked."""


class StoreError(OmniDaemonError):
    """The store failed to do what was asked."""


class AgentError(OmniDaemonError):
    """Something about an agent or one of its tasks."""


class AgentNotFound(AgentError):
    """No such agent."""


class DuplicateAgent(AgentError):
    """Two agents of one app with the same topic and name."""


class TaskNotFound(AgentError):
    """No event, result or dead letter has this task id (any more)."""


class ResultTimeout(AgentError):
    """The wait for a result ended first; the task itself goes on."""


class TaskFailed(AgentError):
    """Every group that had the task gave it up; the causes are in the message and in `causes`.

    Attributes:
        causes: The error text of each agent, by the agent's name.
    """

    def __init__(self, message: str, *, causes: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.causes = causes or {}


class Retry(Exception):
    """Raised by an agent: run this event again after `delay` seconds; charged as one retry.

    Args:
        reason: Why, for the record and the log.
        delay: Seconds to wait; None takes the agent's backoff.
        charged: False if this was no attempt, because it is not the event's turn yet: it takes
            none of the agent's retries, is counted as no failure and leaves no record.
    """

    def __init__(
        self,
        reason: str = "the agent asked for a retry",
        *,
        delay: float | None = None,
        charged: bool = True,
    ) -> None:
        super().__init__(reason)
        if delay is not None and not 0 <= delay < float("inf"):
            raise ValueError(f"Retry(delay={delay!r}): give seconds from 0 up, or None")
        self.delay = delay
        self.charged = charged


class Reject(Exception):
    """Raised by an agent: never run this event again; it becomes a dead letter at once.

    Args:
        reason: Why, for the dead letter.
    """

    def __init__(self, reason: str = "the agent rejected the event") -> None:
        super().__init__(reason)
