"""Spectrograms against pure tones, hand-computed filters, and an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from m3tl_cli.data.log_mel import hertz_to_mel, log_mel, mel_filters, mel_to_hertz

RATE, HOP, WINDOW, FFT = 8000, 80, 200, 512


def _tone(hertz: float, samples: int = 4000, amplitude: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)


def _spectrogram(clip: np.ndarray, num_mels: int = 40, num_frames: int = 20, decibels: tuple[float, float] = (-80, 20)) -> np.ndarray:  # type: ignore[type-arg]
    filters = mel_filters(num_mels=num_mels, num_fft=FFT, sample_rate=RATE)
    return log_mel(clip, filters=filters, num_frames=num_frames, hop=HOP, window=WINDOW, decibels=decibels)


def test_mel_at_known_pitches() -> None:
    assert hertz_to_mel(0) == 0
    assert hertz_to_mel(700) == pytest.approx(2595 * math.log10(2))
    assert hertz_to_mel(1000) == pytest.approx(1000, abs=0.02)
    assert hertz_to_mel(4000) == pytest.approx(2146.06, abs=0.01)
    assert mel_to_hertz(np.array([hertz_to_mel(f) for f in (0.0, 440.0, 3999.0)])).tolist() == pytest.approx([0, 440, 3999])


def test_one_filter_is_a_triangle_computed_by_hand() -> None:
    """One band from 0 Hz to 4000 Hz peaks at the middle in mel, 1073.03 mel or 1113.8 Hz."""
    (triangle,) = mel_filters(num_mels=1, num_fft=8, sample_rate=RATE)  # 0, 1000, 2000, 3000, 4000 Hz
    peak = 700 * (10 ** (1073.0323 / 2595) - 1)
    assert peak == pytest.approx(1113.8, abs=0.1)
    assert triangle.tolist() == pytest.approx([0, 1000 / peak, *((4000 - f) / (4000 - peak) for f in (2000, 3000)), 0], abs=1e-6)


def test_neighbouring_filters_sum_up_to_one() -> None:
    filters = mel_filters(num_mels=20, num_fft=FFT, sample_rate=RATE)
    peaks = filters.argmax(axis=1)
    assert filters[:, peaks[0] + 1 : peaks[-1]].sum(axis=0) == pytest.approx(1)


def test_a_pure_tone_lands_in_the_band_of_its_pitch() -> None:
    corners = mel_to_hertz(np.linspace(0, hertz_to_mel(RATE / 2), 42))
    for band in (3, 10, 25, 38):
        picture = _spectrogram(_tone(float(corners[band + 1])))
        assert set(picture.argmax(axis=0).tolist()) == {39 - band}  # the lowest band is the last row


def test_level_is_relative_to_full_scale_and_linear_in_decibels() -> None:
    loud, quiet = (_spectrogram(_tone(1000, amplitude=a)).max() * 100 - 80 for a in (1.0, 0.01))
    assert loud == pytest.approx(4.8, abs=1.5)  # a few frequencies of the band hold part of the tone
    assert loud - quiet == pytest.approx(40, abs=1e-6)
    assert _spectrogram(np.zeros(4000)).max() == 0
    assert _spectrogram(_tone(1000), decibels=(-80, -40)).max() == 1


def test_a_clip_is_padded_and_cut_evenly_at_both_ends() -> None:
    short = _spectrogram(_tone(1000, samples=800), num_frames=30)
    sounding = (short > 0.2).any(axis=0).nonzero()[0]
    assert 0 < sounding[0] < sounding[-1] < 29
    assert abs(sounding[0] - (29 - sounding[-1])) <= 1
    long = _tone(1000, samples=9000)
    long[4000:5000] = 0  # the middle
    gap = (_spectrogram(long, num_frames=30) < 0.1).all(axis=0).nonzero()[0]
    assert gap.mean() == pytest.approx(14.5, abs=1)
    assert _spectrogram(np.ones(1), num_frames=5).shape == (40, 5)


def test_it_agrees_with_the_implementation_of_transformers() -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    rng = np.random.default_rng(0)
    clip = rng.normal(size=HOP * 11 + WINDOW) * 0.1
    theirs = mel_filter_bank(FFT // 2 + 1, 40, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    filters = mel_filters(num_mels=40, num_fft=FFT, sample_rate=RATE)
    assert filters == pytest.approx(theirs.T, abs=1e-12)
    hann = window_function(WINDOW, "hann")
    power = spectrogram(clip, hann, WINDOW, HOP, fft_length=FFT, power=2.0, center=False, mel_filters=theirs)
    expected = (10 * np.log10(power / (hann.sum() / 2) ** 2) + 80) / 100
    assert _spectrogram(clip, num_frames=12) == pytest.approx(expected[::-1].clip(0, 1), abs=1e-5)
