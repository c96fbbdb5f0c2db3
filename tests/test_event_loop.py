import asyncio

import pytest


def test_no_event_loop_is_left_behind() -> None:
    """Outside a coroutine there is no event loop that a later test would have to close."""
    with pytest.raises(RuntimeError, match="no current event loop"):
        asyncio.get_event_loop()
