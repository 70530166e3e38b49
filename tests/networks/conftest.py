"""What the tests of networks share."""

import pytest


@pytest.fixture(autouse=True)
def _same_elements_drop_out(same_elements_drop_out: None) -> None:
    """In the networks and in their definitions."""
