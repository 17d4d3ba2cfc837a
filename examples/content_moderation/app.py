"""Both agents: `omnidaemon worker examples.content_moderation.app:app` runs them.

publisher -> content_moderation.tasks -> moderator -> content_moderation.reviews -> reviewer
"""

from examples.content_moderation import moderation, review
from examples.content_moderation.state import lifespan
from omnidaemon import App

app = App("content-moderation", lifespan=lifespan)
app.include(moderation.router)
app.include(review.router)
