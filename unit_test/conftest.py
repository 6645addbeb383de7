"""One thread and one seed: results depend neither on the machine nor on the order of the tests. What waits comes first."""

from __future__ import annotations

import pytest

# Files whose tests share something that takes long to start. Each runs in one process, and those that wait for other
# processes start first: others compute meanwhile. So do all of unit_test/export, which share torch's table of operations.
_WAITING = ("test_ray_runner.py", "test_distributed.py", "test_sweep.py", "test_processes.py")
_SHARING = (
    *_WAITING,
    "test_lightning.py",
    "test_nasb_golden.py",
    "test_nasb_resnets.py",
    "test_supernet_budget.py",
    "test_binary_search.py",
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files that wait to the front; with pytest-xdist's `--dist loadgroup`, keep files that share together."""
    for item in items:
        is_export = item.path.parent.name == "export"
        if item.path.name in _SHARING or is_export:
            item.add_marker(pytest.mark.xdist_group("export" if is_export else item.path.name))
    order = {name: position for position, name in enumerate(_WAITING)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
