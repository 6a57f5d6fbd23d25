"""Containers as they come: files that name other files, late and lost sound, tracks, channels."""

from fractions import Fraction

import av
import httpx
import numpy as np
import pytest
import voices

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.errors import DataError, SettingsError
from onecard.tasks.asr import audio, container, mixing
from onecard.tasks.asr.audio import AudioInfo, Selection

RATE = 16_000
SECRET = "The secret word of the owner is marmalade."


@pytest.fixture(scope="module")
def owners(tmp_path_factory):
    """The folder of a recording that no stranger's file may read."""
    folder = tmp_path_factory.mktemp("owner")
    voices.write(folder / "secret.wav", voices.spoken(SECRET))
    as_mp3(folder / "secret.mp3", audio.load(folder / "secret.wav"))
    return folder


def as_mp3(path, samples):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libmp3lame", rate=44_100, layout="mono")
        resampler = av.AudioResampler(
            format=stream.format.name, layout="mono", rate=44_100, frame_size=1152
        )
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", layout="mono")
        frame.sample_rate = RATE
        for converted in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))


def mux(file, number, samples, starts_s=(0.0,)):
    """Mono samples at one time or more; each time starts a piece of them."""
    stream = file.streams.audio[number]
    pieces = np.array_split(samples, len(starts_s))
    for start, piece in zip(starts_s, pieces, strict=True):
        for at in range(0, len(piece), 1024):
            ints = (piece[None, at : at + 1024] * 32767).astype("<i2")
            frame = av.AudioFrame.from_ndarray(ints, "s16", layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = round(start * RATE) + at
            file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


# Files that name other files


def traps(folder):
    secret = folder / "secret"
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\n{secret}.mp3\n#EXT-X-ENDLIST\n",
        "nested": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\n{folder}/hls.m3u8\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}.wav'\n",
        "concat in concat": f"ffconcat version 1.0\nfile '{folder}/concat.wav'\n",
        "relative": "ffconcat version 1.0\nfile secret.wav\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=audio 50040 RTP/AVP 0\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1">'
        f"<BaseURL>{secret}.wav</BaseURL></Representation></AdaptationSet></Period></MPD>",
    }


TRAPS = ("hls", "nested", "concat", "concat in concat", "relative", "sdp", "dash")


@pytest.mark.parametrize("suffix", [".wav", ".m3u8", ".mp3", ".mpd"])
@pytest.mark.parametrize("name", TRAPS)
def test_no_file_opens_another(owners, name, suffix):
    trap = owners / f"{name}{suffix}"
    trap.write_text(traps(owners)[name])
    for source in (trap, trap.read_bytes()):
        with pytest.raises(DataError, match="no sound that can be read"):
            audio.load(source)


def test_ffmpeg_itself_would_follow_them(owners):
    """Without this the test above could not fail."""
    followed = []
    for name, suffix in (("hls", ".m3u8"), ("relative", ".wav")):
        trap = owners / f"plain-{name}{suffix}"
        trap.write_text(traps(owners)[name])
        with av.open(str(trap)) as file:
            followed.append(sum(frame.samples for frame in file.decode(audio=0)) > RATE)
    assert followed == [True, True]


def test_an_upload_reads_no_file_of_the_owner(serving, owners):
    address = serving("asr", "serve", "--language", "en")
    for name in TRAPS:
        reply = httpx.post(
            f"{address}/v1/audio/transcriptions",
            files={"file": ("talk.m3u8", traps(owners)[name].encode(), "audio/wav")},
            timeout=60,
        )
        assert reply.status_code == 400, name
        assert "marmalade" not in reply.text.lower()


def test_a_name_with_a_colon_is_a_file_and_no_protocol(tmp_path):
    path = voices.write(tmp_path / "file:14:30 talk.wav", voices.spoken("Hello there."))
    assert len(audio.load(path)) > RATE / 2


@pytest.mark.parametrize("suffix", [".opus", ".m4b", ".mka", ".wv", ".caf", ".MPG", ".vob"])
def test_folders_are_searched_for_many_endings(tmp_path, suffix):
    (tmp_path / f"talk{suffix}").write_bytes(b"x")
    assert audio.find_files([str(tmp_path)]) == [tmp_path / f"talk{suffix}"]


# The container's time


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def film(path, tracks, with_picture=True):
    """tracks: (samples, starts_s, language, is_default)."""
    with av.open(str(path), "w") as file:
        if with_picture:
            picture = file.add_stream("mpeg4", rate=5)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        for _, _, language, is_default in tracks:
            stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
            stream.metadata["language"] = language
            stream.disposition = av.stream.Disposition.default if is_default else 0
        if with_picture:
            for i in range(10):
                image = np.zeros((64, 64, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, "rgb24")
                frame.pts = i
                file.mux(picture.encode(frame))
            file.mux(picture.encode(None))
        for number, (samples, starts, *_) in enumerate(tracks):
            mux(file, number, samples, starts_s=starts)
    return path


def sounding(sound):
    """(first, last) second with sound."""
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    return loud[0] / RATE, loud[-1] / RATE


def test_sound_that_starts_late_has_the_times_of_the_film(tmp_path):
    info = AudioInfo()
    sound = audio.load(film(tmp_path / "late.mkv", [(noise(2), (5.0,), "eng", True)]), info)
    assert sounding(sound) == pytest.approx((5.0, 7.0), abs=0.1)
    assert info.seconds == pytest.approx(7, abs=0.1)
    assert "starts 5.0 s after" in " ".join(info.warnings())


def test_lost_packets_leave_silence(tmp_path):
    info = AudioInfo()
    path = film(tmp_path / "hole.mkv", [(noise(4), (0.0, 22.0), "eng", True)])
    sound = audio.load(path, info)
    assert sounding(sound) == pytest.approx((0.0, 24.0), abs=0.1)
    assert np.abs(sound[3 * RATE : 21 * RATE]).max() < 1e-3
    assert info.lost_s == pytest.approx(20, abs=0.1)


def test_a_clock_that_was_set_makes_no_hours_of_silence(tmp_path):
    path = film(tmp_path / "jump.mkv", [(noise(4), (0.0, 90_000.0), "eng", True)])
    assert len(audio.load(path)) / RATE == pytest.approx(4, abs=0.2)


# Tracks


@pytest.fixture(scope="module")
def two_tracks(tmp_path_factory):
    tracks = [(noise(1), (0.0,), "spa", False), (noise(3, 1), (0.0,), "ger", True)]
    return film(tmp_path_factory.mktemp("film") / "two.mkv", tracks)


@pytest.mark.parametrize(
    ("selection", "seconds"),
    [
        (Selection(), 3),
        (Selection(track=1), 1),
        (Selection(track=2), 3),
        (Selection(language="es"), 1),
        (Selection(language="de"), 3),
        (Selection(language="fr"), 3),
    ],
    ids=["default flag", "first", "second", "by language", "by other tag", "none in it"],
)
def test_a_track_is_chosen(two_tracks, selection, seconds):
    info = AudioInfo()
    n = sum(map(len, audio.blocks(two_tracks, info, selection=selection)))
    assert n / RATE == pytest.approx(seconds, abs=0.1)
    assert "2 audio tracks (1 spa, 2 ger)" in info.warnings()[0]


def test_a_track_that_is_not_there_is_refused(two_tracks):
    with pytest.raises(SettingsError, match="no audio track 3"):
        list(audio.blocks(two_tracks, selection=Selection(track=3)))


# Channels


@pytest.mark.parametrize("share", [1.0, 0.6], ids=["exactly", "quieter"])
def test_an_inverted_channel_does_not_cancel_the_other(tmp_path, share):
    voice = voices.spoken("Good morning everybody.") * 0.6
    info = AudioInfo()
    path = voices.write(tmp_path / "inverted.wav", np.stack([voice, -share * voice]))
    sound = audio.load(path, info)
    level = np.sqrt((sound**2).mean() / (voice**2).mean())
    assert level == pytest.approx((1 + share) / 2, abs=0.05)
    assert info.inverted_channel


def test_the_centre_of_a_film_is_heard_alone():
    names = ["FL", "FR", "FC", "LFE", "BL", "BR"]
    voice, music = noise(1) * 0.3, noise(1, 1)
    rows = np.stack([music, music, voice, music, music, music])
    assert np.array_equal(mixing.mix(rows, names)[0], voice)
    rows[2] = 0
    mono, _ = mixing.mix(np.stack([voice, voice, rows[2], music * 5, rows[2], rows[2]]), names)
    assert np.allclose(mono, voice), "without a centre, all but the bass"


def test_each_channel_is_one_speaker(onecard, tmp_path):
    """The two speak at once, which a mix makes unintelligible."""
    first = voices.spoken("We are going to the station in the morning.", "en-us+m3")
    second = voices.spoken("The train leaves at half past seven.")
    rows = np.zeros((2, max(len(first), len(second)) + 8000), np.float32)
    rows[0, : len(first)] = first * 0.6
    rows[1, 4000 : 4000 + len(second)] = second * 0.6
    path = voices.write(tmp_path / "call.wav", rows)
    words = ["--channels", "split", "--language", "en", "--output_dir", tmp_path, "--json"]
    result = onecard("asr", "transcribe", path, *words)
    assert result.code == 0, result.err
    assert result.data["files"][0]["speakers"] == ["channel 1", "channel 2"]
    text = (tmp_path / "call.txt").read_text()
    heard = {line.split("] ")[1].split(":")[0]: line for line in text.splitlines() if "] " in line}
    assert "station" in heard["channel 1"]
    assert "train" in heard["channel 2"] and "station" not in heard["channel 2"]


def test_no_format_of_the_list_opens_other_files():
    openers = "hls concat concatf dash sdp rtsp rtp image2 lavfi imf vobsub webm_dash_manifest"
    assert not set(openers.split()) & set(container.FORMATS.split(","))
