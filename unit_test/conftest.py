"""One thread and one seed: results depend neither on the machine nor on the order of the tests. What waits comes first."""

from __future__ import annotations

import gc
from typing import Any

import pytest

# Files whose tests share something that takes long to start. Each runs in one process, and those that wait for other
# processes start first: others compute meanwhile. All of unit_test/export share torch's table of operations.
_SHARING = (
    "test_ray_runner.py",
    "test_distributed.py",
    "test_sweep.py",
    "test_processes.py",
    "export",
    "test_lightning.py",
    "test_binary_search.py",
    "test_nasb_golden.py",
    "test_nasb_laws.py",
    "test_nasb_resnets.py",
    "test_supernet_budget.py",
    "test_target_accuracy.py",
    "test_tutorials.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """One thread per process that runs tests; the one that hands them out needs no torch."""
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.default_generator.manual_seed(0)  # `torch.manual_seed` also notes the stack, for devices that come later


def pytest_collection_finish() -> None:
    """What imports have made stays: the garbage collector need not look at it after every few thousand objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _shared_by(file: str) -> str | None:
    """The entry of `_SHARING` that a test file belongs to."""
    *folders, name = file.split("/")
    return next((entry for entry in _SHARING if entry in (name, *folders[-1:])), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files that share to the front, those that wait first."""
    groups = {file: _shared_by(file) for file in {item.nodeid.partition("::")[0] for item in items}}
    order = {group: position for position, group in enumerate((*_SHARING, None))}
    items.sort(key=lambda item: order[groups[item.nodeid.partition("::")[0]]])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests one by one, and files that share as a whole."""
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _shared_by(nodeid.partition("::")[0]) or nodeid

    return ByWhatIsShared(config, log)
