"""Log-mel spectrograms: how much sound there is at every moment in bands that are as wide as an ear hears them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

FLOOR = 1e-12  # of power, 120 dB below full scale: no logarithm of 0


def hertz_to_mel(hertz: float) -> float:
    """Pitch in mel, 2595 log10(1 + f / 700): 1000 Hz are 1000 mel.

    Source: O'Shaughnessy, "Speech Communication: Human and Machine", 1987; the scale of HTK.
    """
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))


def mel_to_hertz(mel: Samples) -> Samples:
    """Inverse of `hertz_to_mel`."""
    result: Samples = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return result


def mel_filters(*, num_mels: int, num_fft: int, sample_rate: int) -> Samples:
    """Triangles of height 1 whose corners are evenly spaced in mel from 0 Hz to half the sample rate; each ends where the next peaks.

    Source: Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in Continuously Spoken
    Sentences", IEEE TASSP 1980, on the scale of `hertz_to_mel`; the sides are straight in Hz, as in torchaudio and librosa (htk=True,
    norm=None).

    Args:
        num_mels: Bands.
        num_fft: Length of the Fourier transform, even.
        sample_rate: Hz.

    Returns:
        [num_mels, num_fft / 2 + 1] weight of each frequency k * sample_rate / num_fft in each band, the lowest band first.
    """
    frequencies = np.arange(num_fft // 2 + 1) * (sample_rate / num_fft)
    corners = mel_to_hertz(np.linspace(0.0, hertz_to_mel(sample_rate / 2), num_mels + 2))
    widths = np.diff(corners)[:, None]
    rising = (frequencies - corners[:-2, None]) / widths[:-1]
    falling = (corners[2:, None] - frequencies) / widths[1:]
    filters: Samples = np.maximum(0.0, np.minimum(rising, falling))
    return filters


def log_mel(samples: Samples, *, filters: Samples, num_frames: int, hop: int, window: int, decibels: tuple[float, float]) -> Samples:
    """Log-mel spectrogram of a clip, of a fixed size and range.

    The clip is padded with silence, or cut, evenly at both ends to (num_frames - 1) * hop + window samples. Frame i starts at sample
    i * hop; under a periodic Hann window its power spectrum is scaled so that a sine of full scale has a power of 1 where it lies, and
    summed up by the filters. The result is 10 log10 of that, where `decibels` become 0 and 1, and what is beyond them 0 or 1.

    Args:
        samples: [N] in [-1, 1].
        filters: [bands, num_fft / 2 + 1], see `mel_filters`; num_fft is at least `window`.
        num_frames: Of the result.
        hop: Samples from one frame to the next.
        window: Samples of a frame.
        decibels: Lowest and highest level that is told apart, relative to full scale.

    Returns:
        [bands, num_frames] in [0, 1], the highest band first, so that it shows as spectrograms do.
    """
    length = (num_frames - 1) * hop + window
    missing = max(length - len(samples), 0)
    padded = np.pad(samples, (missing // 2, missing - missing // 2))
    start = (len(padded) - length) // 2
    clip = padded[start : start + length]
    frames = np.lib.stride_tricks.sliding_window_view(clip, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    amplitude = np.abs(np.fft.rfft(frames * hann, n=2 * (filters.shape[1] - 1))) / (hann.sum() / 2)
    level = 10.0 * np.log10(np.maximum(np.square(amplitude) @ filters.T, FLOOR))
    low, high = decibels
    result: Samples = ((level - low) / (high - low)).clip(0.0, 1.0).T[::-1]
    return result
