"""The same for code that is not async: a script, or a Django view."""

from examples.quickstart import app

with app.blocking() as sender:
    print(sender.send("greet.user", {"name": "Alice"}).result(timeout=5))
