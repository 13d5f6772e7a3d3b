import pytest

from eval.report.wording import plain, points


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("www.example.com", "www\\.example.com"),
        ("https://example.com", "https\\://example.com"),
        ("me@example.com", "me\\@example.com"),
        ("0.5: a reason.", "0.5: a reason."),
    ],
)
def test_a_plain_address_is_no_link_in_markdown(text: str, markdown: str) -> None:
    assert plain(text) == markdown


def test_points_have_a_sign_except_zero() -> None:
    assert [points(share) for share in (0.012, -0.012, 0.0001, -0.0001)] == [
        "+1.2", "−1.2", "0.0", "0.0",
    ]  # fmt: skip
