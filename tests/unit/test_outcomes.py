"""What a failed run comes to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidaemon.errors import InvalidSettings, Reject, Retry
from omnidaemon.outcomes import Again, Backoff, Dead, RetryPolicy, decide, describe


def test_failures_are_retried_up_to_the_limit_and_then_dead():
    policy = RetryPolicy(retries=2)
    kinds = [type(decide(policy, attempt, ValueError("x"), 0.5)) for attempt in (1, 2, 3)]
    assert kinds == [Again, Again, Dead]


def test_no_retries_mean_one_run():
    assert isinstance(decide(RetryPolicy(retries=0), 1, ValueError(), 0), Dead)


def test_the_wait_doubles_up_to_the_maximum():
    policy = RetryPolicy(retries=9, backoff=Backoff(1, 2, 5, jitter=0))
    waits = [decide(policy, attempt, ValueError(), 0.9).delay for attempt in range(1, 6)]
    assert waits == [1, 2, 4, 5, 5]


@given(attempt=st.integers(1, 10**6), chance=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_finite_and_at_most_half_shorter_than_without_jitter(attempt, chance):
    wait = Backoff().delay(attempt, chance)
    full = Backoff(jitter=0).delay(attempt, chance)
    assert 0 <= full / 2 <= wait <= full <= 300


def test_a_rejected_event_is_dead_at_once():
    outcome = decide(RetryPolicy(), 1, Reject("no such customer"), 0)
    assert isinstance(outcome, Dead)
    assert outcome.cause.message == "no such customer"
    assert outcome.cause.traceback == ""


def test_a_retry_has_its_own_delay_and_is_charged():
    assert decide(RetryPolicy(), 1, Retry(delay=7), 0).delay == 7
    assert decide(RetryPolicy(), 1, Retry(), 0).delay == 1
    assert isinstance(decide(RetryPolicy(), 4, Retry(delay=7), 0), Dead)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf])
def test_a_retry_without_a_usable_delay_is_refused(delay):
    with pytest.raises(ValueError, match="delay"):
        Retry(delay=delay)


def test_only_what_retry_on_names_is_retried_and_give_up_on_wins():
    policy = RetryPolicy(retry_on=(OSError,), give_up_on=(FileNotFoundError,))
    assert isinstance(decide(policy, 1, OSError(), 0), Again)
    assert isinstance(decide(policy, 1, FileNotFoundError(), 0), Dead)
    assert isinstance(decide(policy, 1, ValueError(), 0), Dead)


def test_without_dead_letters_the_outcome_says_so():
    assert decide(RetryPolicy(retries=0, dead_letter=False), 1, ValueError(), 0).keep is False


def test_a_cause_has_type_text_and_traceback_and_is_cut():
    try:
        raise ValueError("x" * 10_000 + "\ud800")
    except ValueError as error:
        cause = describe(error)
    assert cause.type == "ValueError"
    assert len(cause.message) < 5_000
    assert "test_outcomes" in cause.traceback
    cause.message.encode()


@pytest.mark.parametrize(
    "bad",
    [
        {"initial": -1},
        {"factor": 0.5},
        {"maximum": math.inf},
        {"jitter": 2},
        {"initial": math.nan},
    ],
)
def test_a_backoff_without_sense_is_refused(bad):
    with pytest.raises(InvalidSettings):
        Backoff(**bad)


def test_what_counts_in_an_exception_group_is_what_is_within():
    policy = RetryPolicy(give_up_on=(KeyError,), retry_on=(ValueError, OSError))

    def group(*errors):
        return ExceptionGroup("unhandled errors in a TaskGroup", errors)

    rejected = decide(policy, 1, group(ValueError("a"), group(Reject("no"))), 0)
    assert isinstance(rejected, Dead)
    assert rejected.cause.message == "no"
    assert decide(policy, 1, group(Retry(delay=7), Retry(delay=9)), 0).delay == 9
    assert isinstance(decide(policy, 1, group(KeyError("a"), KeyError("b")), 0), Dead)
    assert isinstance(decide(policy, 1, group(TypeError("a")), 0), Dead)
    again = decide(policy, 1, group(ValueError("first"), TypeError("second")), 0)
    assert isinstance(again, Again)
    assert "ValueError: first; TypeError: second" in again.cause.message
