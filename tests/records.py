"""A row's result as `reproduce.py` writes it, for tests that need one and no training."""

from typing import Any


def number(value: float, network: str | None = None, **more: Any) -> dict[str, Any]:
    known = {"value": value, "protocol": "a protocol", "n_images": 5120, "split": "test", "feature_network": network}
    return known | more


def done_result(**changes: Any) -> dict[str, Any]:
    """Whole, of a row called `a`."""
    origin = {
        "hardware": "a processor, 1 of 2 cores",
        "versions": {"python": "3.11"},
        "commit": "c",
        "date": "2026-01-01T00:00:00+00:00",
    }
    return {
        "name": "a",
        "status": "done",
        "epochs": 4,
        "trained": origin,
        "fingerprint": {},
        "budget": "paper's recipe, 4 epochs",
        "config": {"seed": 42},
        "reconstruction_loss": number(0.25),
        "baselines": {"mean training image": 0.5},
        "training_seconds": 30.0,
        "images_per_second": 50.0,
        **origin,
    } | changes
