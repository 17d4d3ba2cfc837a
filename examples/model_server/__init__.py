"""A stand-in for a language model: it speaks the HTTP of real ones, and decides by simple rules.

It needs no key, no network and no packages, see `python -m examples.model_server --help`. It does
nothing but what its conversation says, by rules that stand in `rules.py`; `chat.py`, `responses.py`
and `gemini.py` are the APIs.
"""
