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


def timed(name: str, factor: float, *, file_bytes: int) -> dict:
    """A file timed in ten rounds together with the others, none of which wavers."""
    rounds = {"round_min_ms": [factor * ms for ms in range(1, 11)], "noise_floor": 0.04}
    return {
        "name": name,
        "file_bytes": file_bytes,
        "latency": [{"p50_ms": 5.5 * factor, **rounds}],
    }


@pytest.mark.parametrize(
    ("others", "chosen", "says"),
    [
        ([timed("b", 1.10, file_bytes=500)], "a", "the fastest of 2"),  # slower, though smaller
        ([timed("b", 1.03, file_bytes=500)], "b", "the smallest of 2 as fast of 2"),
        ([timed("b", 1.03, file_bytes=1005)], "b", "the smallest of 2 as fast of 2"),  # loses less
        ([timed("b", 1.03, file_bytes=1500)], "a", "the smallest of 2 as fast of 2"),
        ([timed("b", 1.03, file_bytes=900), timed("c", 1.1, file_bytes=1)], "b", "2 as fast of 3"),
    ],
)
def test_of_files_that_differ_in_no_speed_the_smallest_is_chosen(
    others: list, chosen: str, says: str
) -> None:
    verdict = choose(
        [timed("a", 1.0, file_bytes=1000), *others],
        validation_top1={"a": 0.892, "b": 0.895, "c": 0.9},
        student_validation_top1=0.90,
        max_drop=0.01,
    )
    assert verdict["chosen_file"] == chosen
    assert says in verdict["reason"]


@pytest.mark.parametrize("rows", [[], ROWS])
def test_nothing_to_compare_is_no_choice(rows: list) -> None:
    verdict = choose(rows, validation_top1=TOP1, student_validation_top1=None, max_drop=0.01)
    assert verdict["chosen_file"] is None
