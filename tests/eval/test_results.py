import pytest

from eval.results import choose


def row(name: str, p50_ms: float) -> dict:
    return {"name": name, "file_bytes": 1, "latency": [{"p50_ms": p50_ms}]}


ROWS = [row("slow", 9.0), row("fast", 2.0), row("fastest", 1.0)]
TOP1 = {"slow": 0.90, "fast": 0.895, "fastest": 0.70}


def test_the_fastest_file_within_the_budget_is_chosen() -> None:
    verdict = choose(ROWS, validation_top1=TOP1, student_validation_top1=0.90, max_drop=0.01)
    assert verdict["chosen_file"] == "fast"
    assert "within 1.0 points" in verdict["reason"]


def test_where_none_is_within_the_budget_the_best_is_named_as_such() -> None:
    verdict = choose(ROWS, validation_top1=TOP1, student_validation_top1=0.99, max_drop=0.01)
    assert verdict["chosen_file"] == "slow"
    assert "no file stays within" in verdict["reason"]


@pytest.mark.parametrize("rows", [[], ROWS])
def test_nothing_to_compare_is_no_choice(rows: list) -> None:
    verdict = choose(rows, validation_top1=TOP1, student_validation_top1=None, max_drop=0.01)
    assert verdict["chosen_file"] is None
