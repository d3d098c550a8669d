# SPDX-License-Identifier: Apache-2.0
"""A program that says words by espeak-ng; `speech` runs it.

The synthesizer goes on from where it was: what it says depends on all that it has said before. In a process of its
own, the same words always sound the same. The program reads a list of [text, voice, words per minute, pitch] as JSON.
It writes a line of JSON with the rate and the number of samples of each, and then all samples in 16 bits.
"""

from __future__ import annotations

import ctypes
import json
import sys

# Of espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_RATE, _PITCH = 1, 3
_POS_CHARACTER = 1
_CHARS_UTF8 = 1


def _say(requests: list[tuple[str, str, int, int]]) -> tuple[int, list[bytes]]:
    """Samples per second, and the samples of each request."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    pieces: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples: int | None, count: int, events: int | None) -> int:
        if samples:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak-ng cannot be started: {rate}")
    # It is the time of day otherwise.
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(keep)
    said = []
    for text, voice, speed, pitch in requests:
        pieces.clear()
        if library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        library.espeak_SetParameter(_RATE, speed, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        written = text.encode() + b"\0"
        library.espeak_Synth(written, ctypes.c_size_t(len(written)), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        said.append(b"".join(pieces))
    return rate, said


if __name__ == "__main__":
    rate, said = _say(json.load(sys.stdin))
    header = {"rate": rate, "samples": [len(samples) // 2 for samples in said]}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + b"".join(said))
