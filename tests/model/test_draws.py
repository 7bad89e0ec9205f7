import numpy as np
import pytest
import torch
from scipy import stats

from scale_toolkit.model.draws import Draws, Purpose, kept, threshold_of


def test_numbers_follow_from_seed_purpose_and_step_alone():
    draws = Draws(5)
    first = draws.bits(Purpose.NOISE, 3, 10)
    draws.bits(Purpose.PEAKS, 3, 99)
    assert torch.equal(first, Draws(5).bits(Purpose.NOISE, 3, 10))
    assert torch.equal(first[:4], draws.bits(Purpose.NOISE, 3, 4))
    assert torch.equal(first, draws.bits(Purpose.NOISE, torch.tensor(3), 10))
    for other in (Draws(6).bits(Purpose.NOISE, 3, 10), draws.bits(Purpose.PEAKS, 3, 10), draws.bits(Purpose.NOISE, 4, 10)):
        assert not (first == other).any()


def test_mixing_is_splitmix64():
    """The first outputs of SplitMix64 from state 0 (Steele et al. 2014; the reference
    implementation's).
    """
    from scale_toolkit.model import draws

    state = torch.arange(1, 4) * draws._signed(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [value & ((1 << 64) - 1) for value in draws._mix(state).tolist()] == expected
    assert draws._mixed(0x9E3779B97F4A7C15) == expected[0]


@pytest.mark.parametrize("step", [0, 1, 12345])
def test_distributions(step):
    draws = Draws(1)
    assert stats.kstest(draws.uniform(Purpose.PEAKS, step, 20_000).numpy(), "uniform").pvalue > 1e-3
    normal = draws.normal(Purpose.NOISE, step, (2_000, 10)).numpy()
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(normal.T) - np.eye(10)).max() < 0.1
    counts = np.bincount(draws.below(Purpose.NEIGHBOUR, step, 7, 20_000).numpy(), minlength=7)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert sorted(draws.permutation(Purpose.ORDER, step, 100).tolist()) == list(range(100))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_mask_hides_its_share_independently_of_row_and_place(share):
    keys = Draws(2).keys(Purpose.MASK, 4, 500)[:, None]
    keep = kept(keys, torch.arange(400)[None, :], threshold_of(share)).numpy()
    assert keep.mean() == pytest.approx(1 - share, abs=0.01)
    sd = (share * (1 - share)) ** 0.5
    assert keep.mean(0).std() == pytest.approx(sd / 500**0.5, rel=0.15)
    assert keep.mean(1).std() == pytest.approx(sd / 400**0.5, rel=0.15)
