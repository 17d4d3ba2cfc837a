"""The client's limit: XREADGROUP and XACK of 100, no decoding, no handler, no result."""

from __future__ import annotations

import dataclasses

import on_raw

PEER = dataclasses.replace(
    on_raw.PEER, worker=["-c", "import uvloop, on_raw; uvloop.run(on_raw.read())"]
)
