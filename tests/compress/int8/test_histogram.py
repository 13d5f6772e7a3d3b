import numpy as np
import pytest

from compress.int8.histogram import CENTERS, EDGES, Histogram, bins, codes, count_codes


def of_values(values) -> Histogram:
    values = np.asarray(values, "float32")
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(count_codes(codes(values)), low, high)


def test_every_value_is_in_the_bin_around_it():
    values = np.array([-3e4, -1.0, -1e-3, 1e-5, 0.1, 1.0, 1.1249, 7.99, 1e5], "float32")
    at = bins(values)
    assert (EDGES[at] <= values).all()
    assert (values <= EDGES[at + 1]).all()
    assert list(bins(np.array([0.0, 1e-9, 1e30], "float32"))) == [320, 320, 639]
    normal = np.abs(CENTERS) > 1e-5
    assert (np.diff(EDGES)[normal] / np.abs(CENTERS[normal])).max() < 0.125


def test_values_and_weights_are_counted_in_their_bins():
    values = np.array([[1.0, 1.05], [-3.0, 1.0]], "float32")
    counts = count_codes(codes(values))
    assert counts.sum() == 4
    assert counts[bins(np.float32(1.0))] == 3
    weights = np.array([0.5, 2.0, 4.0, 8.0])
    assert count_codes(codes(values), weights)[bins(np.float32(1.0))] == 10.5


def test_a_percentile_leaves_out_the_same_share_on_either_side():
    # 1000 values of each sign lie evenly up to 8, so 5 % are beyond 7.2 and 5 % beyond -7.2.
    both = np.linspace(0.008, 8, 1000)
    assert of_values([*-both, *both]).percentile(90) == pytest.approx((-7.2, 7.2), rel=0.01)
    # All values are positive. A range always includes 0, so nothing is below it.
    assert of_values(both).percentile(90) == pytest.approx((0.0, 7.6), rel=0.01)


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles_are_those_of_all_values(percentile):
    values = np.random.default_rng(0).standard_t(3, 200_000)
    rest = (100 - percentile) / 2
    expected = tuple(np.percentile(values, [rest, 100 - rest]))
    # Equal within a bin, which is 6 to 12 % wide; the tails of 99.99 have ten values each.
    assert of_values(values).percentile(percentile) == pytest.approx(expected, rel=0.12)


def test_the_percentile_100_leaves_nothing_out():
    assert of_values([-3.1, 0.2, 7.7]).percentile(100) == pytest.approx((-3.1, 7.7), rel=1e-6)


def squared_error(values, low, high):
    """The error of values that are in fact clipped and rounded."""
    step = (high - low) / 255
    zero = round(-low / step)
    rounded = np.clip(np.round(values / step) + zero, 0, 255)
    return np.square((rounded - zero) * step - values).mean()


@pytest.mark.parametrize("kind", ["heavy tails", "relu", "swish"])
def test_least_squares_come_near_the_best_of_all_ranges(kind):
    x = np.random.default_rng(0).standard_t(3, 20_000) * 2
    values = {"heavy tails": x, "relu": np.maximum(x, 0), "swish": x / (1 + np.exp(-x))}[kind]
    least = of_values(values).least_squares()
    shares = np.linspace(0.02, 1, 40)
    errors = [
        squared_error(values, min(values.min(), 0) * a, values.max() * b)
        for a in shares
        for b in shares
    ]
    # The grids differ, and a bin knows an extreme value only to 12 %.
    assert squared_error(values, *least) < 1.2 * min(errors)


def test_a_lone_value_is_kept_if_rounding_all_others_costs_less():
    # One value of 100 and 10,000 values of about 1. Clipped at c the one costs (100 - c)^2. Steps
    # of c / 255 cost the others c^2 / 255^2 / 12 each, 0.0128 c^2 together. The sum is smallest at
    # c = 100 / 1.0128.
    low, high = of_values([100.0, *np.linspace(0.9, 1.1, 10_000)]).least_squares()
    assert low == 0
    assert high == pytest.approx(98.7, rel=0.05)  # candidates are 6 % apart
    # A million of them cost 1.28 c^2, and the sum is smallest at c = 100 / 2.28.
    many = of_values([100.0, *np.linspace(0.9, 1.1, 10_000)])
    counts = np.where(CENTERS < 2, many.counts * 100, many.counts)
    assert Histogram(counts, 0.0, 100.0).least_squares()[1] == pytest.approx(43.8, rel=0.05)


def test_zeros_have_no_rounding_error():
    others = [*np.linspace(0.1, 1, 1000), 3.0]
    with_zeros = of_values([*others, *np.zeros(100_000)])
    assert with_zeros.least_squares() == of_values(others).least_squares()
