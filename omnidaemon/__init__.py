"""OmniDaemon: an event-driven runtime for AI agents.

Layout, from the ground up: errors, settings, envelope, messages, outcomes (values) · drivers,
transports, stores (where events and records lie) · records, tasks (typed views) · agents, context,
binding (handlers) · app (publishing) · worker (the path of a message: worker/consumer.py) · cli,
testing. Each imports only from those before it.
"""

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
from omnidaemon.tasks import TaskHandle as TaskHandle
