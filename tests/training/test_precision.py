import pytest
import torch

from pinxit.training.precision import Precision, autocast, has_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("bf16", torch.bfloat16),
        ("float32", torch.float32),
        ("auto", torch.bfloat16 if has_bf16(CPU) else torch.float32),
    ],
)
def test_products_have_the_precision_asked_for(precision: Precision, expected: torch.dtype) -> None:
    x = torch.ones(2, 2)
    mixed = autocast(precision, CPU)
    for _ in range(2):  # it can be entered again
        with mixed:
            assert (x @ x).dtype == expected
    assert (x @ x).dtype == torch.float32
