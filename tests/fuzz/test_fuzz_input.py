# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio and conversations: they are heard, or refused by a clear error."""

import base64
import io

import numpy as np
import soundfile
from fuzz_values import CLEAR_ERRORS, VALUES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from recordings import recording

from processing.audio_vita_audio import load_audio
from processing.conversation_vita_audio import AUDIO_KEYS


SAMPLES = 0.3 * np.sin(np.arange(4000) / 20)


def whole_file(format, subtype=None):
    content = io.BytesIO()
    soundfile.write(content, SAMPLES, 16000, format=format, subtype=subtype)
    return content.getvalue()


FILES = [whole_file("WAV"), whole_file("FLAC"), whole_file("OGG"), whole_file("MP3"), whole_file("WAV", "FLOAT")]
FILES += [whole_file("WAV", "GSM610"), whole_file("CAF"), whole_file("AIFF")]
FILES += [
    recording(SAMPLES, 16000, *form)
    for form in (
        ("webm", "libopus", 48000),
        ("ipod", "aac", 16000),
        ("3gp", "amr_nb", 8000),
        ("adts", "aac", 16000),
        ("amr", "amr_nb", 8000),
        ("ogg", "flac", 16000),
        ("caf", "alac", 16000),
        ("wav", "adpcm_g726", 8000),
    )
]


@st.composite
def broken_files(draw):
    content = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 6))):
        # the header is where claims are made
        position = draw(st.integers(0, min(80, len(content) - 1)) | st.integers(0, len(content) - 1))
        content[position : position + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(1, len(content)))])


def assert_is_audio(samples):
    assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples) >= 1600
    assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def as_file_object(content):
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    return file


def as_data_uri(content):
    return "data:audio/wav;base64," + base64.b64encode(content).decode()


WAYS = st.sampled_from([bytes, as_file_object, as_data_uri, lambda content: {"base64": base64.b64encode(content)}])


@given(st.binary(max_size=300) | broken_files(), WAYS)
def test_bytes(content, way):
    try:
        assert_is_audio(load_audio(way(content), 16000, max_seconds=10))
    except CLEAR_ERRORS as error:
        assert 10 < len(str(error)) < 500


ARRAYS = st_numpy.arrays(
    dtype=st_numpy.scalar_dtypes() | st_numpy.unicode_string_dtypes(max_len=3),
    shape=st_numpy.array_shapes(max_dims=4, max_side=3000).filter(lambda shape: np.prod(shape) < 50_000),
)
RATES = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([8000, 16000, 48000])


@given(ARRAYS, RATES)
def test_arrays(samples, rate):
    try:
        assert_is_audio(load_audio({"array": samples, "sampling_rate": rate}, 16000, max_seconds=10))
    except CLEAR_ERRORS as error:
        assert 10 < len(str(error)) < 500


SOURCES = st.recursive(
    VALUES
    | st.lists(st.floats(-1, 1), min_size=1600, max_size=1700)
    | st.tuples(st.just("file://") | st.just("data:") | st.just("DATA:;base64,"), st.text(max_size=20)).map("".join)
    | st.sampled_from(FILES)
    | ARRAYS,
    lambda inner: (
        st.tuples(RATES, inner)
        | st.tuples(inner, RATES)
        | st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*AUDIO_KEYS, "sampling_rate", "text"]), inner | RATES, max_size=3)
    ),
    max_leaves=4,
)


@given(SOURCES)
def test_sources(source):
    try:
        assert_is_audio(load_audio(source, 16000, max_seconds=10))
    except CLEAR_ERRORS as error:
        assert 10 < len(str(error)) < 700


MARKED_TEXT = st.lists(
    st.text(max_size=8, alphabet=st.characters())
    | st.sampled_from(["<|audio|>", "<|audio_3|>", "<|im_end|>", "\ud800"]),
    max_size=4,
).map("".join)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "audio", "audio_url", "input_audio", "image"]) | VALUES},
    optional=dict.fromkeys(("text", *AUDIO_KEYS, "input_audio", "sampling_rate", "typo"), VALUES | MARKED_TEXT),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | VALUES},
    optional={"content": MARKED_TEXT | st.lists(PARTS | VALUES, max_size=3) | VALUES, "name": VALUES},
)


@given(st.lists(MESSAGES | VALUES, max_size=3), st.none() | st.lists(VALUES, max_size=2))
def test_conversations(pipe, conversation, audios):
    kwargs = {} if audios is None else {"audios": audios}
    try:
        inputs = pipe.processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, add_generation_prompt=True, **kwargs
        )
    except CLEAR_ERRORS as error:
        assert len(str(error)) < 1500
    else:
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape


@given(st.dictionaries(st.text(max_size=12), VALUES, min_size=1, max_size=2))
def test_keywords(pipe, kwargs):
    # none of these is a keyword, but by chance
    try:
        pipe.processor("Two", **kwargs)
    except CLEAR_ERRORS:
        pass
