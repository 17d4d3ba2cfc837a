"""One agent: `omnidaemon worker examples.quickstart:app` runs it."""

from msgspec import Struct

from omnidaemon import App

app = App("quickstart")


class Person(Struct):
    name: str


@app.agent("greet.user")
async def greet(person: Person) -> dict[str, str]:
    """Greets whoever the event names."""
    return {"greeting": f"Hello, {person.name}!"}
