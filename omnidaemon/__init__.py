"""OmniDaemon: an event-driven runtime for AI agents.

Layout, from the ground up: errors, settings, envelope, messages, outcomes (values) · drivers,
transports, stores (where events and records lie) · records, tasks (typed views) · agents, context,
binding (handlers) · app (publishing) · fleet (what people ask of all) · worker (the path of a
message: worker/consumer.py), admin · cli, sdk, testing. Each imports only from those before it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnidaemon.agents import AgentRouter as AgentRouter
    from omnidaemon.app import App as App
    from omnidaemon.binding import Depends as Depends
    from omnidaemon.context import Context as Context
    from omnidaemon.envelope import Envelope as Envelope
    from omnidaemon.errors import BacklogFull as BacklogFull
    from omnidaemon.errors import ConfigurationError as ConfigurationError
    from omnidaemon.errors import ConnectionLost as ConnectionLost
    from omnidaemon.errors import OmniDaemonError as OmniDaemonError
    from omnidaemon.errors import PayloadError as PayloadError
    from omnidaemon.errors import Reject as Reject
    from omnidaemon.errors import ResultTimeout as ResultTimeout
    from omnidaemon.errors import Retry as Retry
    from omnidaemon.errors import TaskFailed as TaskFailed
    from omnidaemon.outcomes import Backoff as Backoff
    from omnidaemon.sdk import AgentConfig as AgentConfig
    from omnidaemon.sdk import EventEnvelope as EventEnvelope
    from omnidaemon.sdk import OmniDaemonSDK as OmniDaemonSDK
    from omnidaemon.sdk import PayloadBase as PayloadBase
    from omnidaemon.sdk import SubscriptionConfig as SubscriptionConfig
    from omnidaemon.sdk import start_api_server as start_api_server
    from omnidaemon.tasks import TaskHandle as TaskHandle

_FACE = {
    "agents": ["AgentRouter"],
    "app": ["App"],
    "binding": ["Depends"],
    "context": ["Context"],
    "envelope": ["Envelope"],
    "errors": [
        "BacklogFull",
        "ConfigurationError",
        "ConnectionLost",
        "OmniDaemonError",
        "PayloadError",
        "Reject",
        "ResultTimeout",
        "Retry",
        "TaskFailed",
    ],
    "outcomes": ["Backoff"],
    "sdk": [
        "AgentConfig",
        "EventEnvelope",
        "OmniDaemonSDK",
        "PayloadBase",
        "SubscriptionConfig",
        "start_api_server",
    ],
    "tasks": ["TaskHandle"],
}
_MODULES = {name: module for module, names in _FACE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a command's help needs none of it, an App no classic SDK."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
