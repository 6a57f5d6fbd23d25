"""Clips from tables and folders, their validation and split: no model."""

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter
from onecard.tasks.asr import corpora, dataset, features
from onecard.tasks.asr.corpora import Clip

# Reading


def csv_table(folder):
    (folder / "clips.csv").write_text(
        "audio,text,speaker\na.wav,hello there,anna\nb.wav,good bye,bob\n"
    )
    return folder / "clips.csv"


def jsonl_table(folder):
    (folder / "clips.jsonl").write_text(
        '{"file_name": "a.wav", "transcription": "hello there"}\n'
        '{"file_name": "b.wav", "transcription": "good bye"}\n'
    )
    return folder / "clips.jsonl"


def hugging_face_folder(folder):
    (folder / "metadata.csv").write_text(
        "file_name,transcription\nx/a.wav,hello there\nx/b.wav,good bye\n"
    )
    return folder


def kaldi_folder(folder):
    (folder / "wav.scp").write_text("u1 a.wav\nu2 /abs/b.wav\n")
    (folder / "text").write_text("u1 hello there\nu2 good bye\n")
    (folder / "utt2spk").write_text("u1 anna\nu2 bob\n")
    return folder


def text_files(folder):
    for name, text in (("a", "hello there"), ("b", "good bye")):
        (folder / f"{name}.wav").write_bytes(b"x")
        (folder / f"{name}.txt").write_text(text)
    return folder


def ljspeech(folder):
    sounds(folder / "wavs")
    (folder / "metadata.csv").write_text('a|hello "there|hello there\nb|good bye\n')
    return folder


def common_voice(folder):
    sounds(folder / "clips", ".mp3")
    (folder / "validated.tsv").write_text(
        "client_id\tpath\tsentence\tup_votes\nx1\ta.mp3\thello there\t2\nx2\tb.mp3\tgood bye\t2\n"
    )
    return folder


def common_voice_table(folder):
    return common_voice(folder) / "validated.tsv"


def librispeech(folder):
    below = folder / "dev-clean" / "84" / "121"
    sounds(below, ".flac", ("84-121-0000", "84-121-0001"))
    (below / "84-121.trans.txt").write_text("84-121-0000 hello there\n84-121-0001 good bye\n")
    return folder


def audiofolder_root(folder):
    sounds(folder / "train")
    (folder / "test").mkdir()
    (folder / "test" / "metadata.csv").write_text("file_name,transcription\nc.wav,not this\n")
    (folder / "train" / "metadata.csv").write_text(
        "file_name,transcription\na.wav,hello there\nb.wav,good bye\n"
    )
    return folder


def kaldi_recipe(folder):
    """Paths from the recipe's root, one of them through a decoder."""
    sounds(folder / "corpus", ".flac")
    (folder / "data" / "train").mkdir(parents=True)
    (folder / "data" / "train" / "wav.scp").write_text(
        "u1 corpus/a.flac\nu2 flac -c -d -s corpus/b.flac |\n"
    )
    (folder / "data" / "train" / "text").write_text("u1 hello there\nu2 good bye\n")
    return folder


def sounds(folder, suffix=".wav", names=("a", "b")):
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(b"x")


@pytest.mark.parametrize(
    "write",
    [ljspeech, common_voice, common_voice_table, librispeech, audiofolder_root, kaldi_recipe],
)
def test_corpora_are_read_as_they_come(tmp_path, write):
    clips = corpora.read(str(write(tmp_path)))
    assert [clip.text for clip in clips] == ["hello there", "good bye"]
    assert all(clip.path.is_file() for clip in clips), clips


def test_librispeech_names_its_speakers(tmp_path):
    assert {clip.speaker for clip in corpora.read(str(librispeech(tmp_path)))} == {"84"}


def test_a_quotation_mark_in_common_voice_swallows_no_row(tmp_path):
    table = common_voice(tmp_path) / "validated.tsv"
    table.write_text(table.read_text().replace("hello there", '"hello there'))
    assert len(corpora.read(str(tmp_path))) == 2


@pytest.mark.parametrize("command", ["rm -rf x.wav y.wav |", "cat a.wav | sox - b.wav |", "make |"])
def test_kaldis_other_commands_are_refused(tmp_path, command):
    (kaldi_folder(tmp_path) / "wav.scp").write_text(f"u1 {command}\n")
    with pytest.raises(DataError, match="is a command"):
        corpora.read(str(tmp_path))


@pytest.mark.parametrize(
    "write", [csv_table, jsonl_table, hugging_face_folder, kaldi_folder, text_files]
)
def test_clips_are_read_from_every_form(tmp_path, write):
    clips = corpora.read(str(write(tmp_path)))
    assert [clip.text for clip in clips] == ["hello there", "good bye"]
    assert [clip.path.name for clip in clips] == ["a.wav", "b.wav"]


def test_kaldi_has_speakers(tmp_path):
    clips = corpora.read(str(kaldi_folder(tmp_path)))
    assert [clip.speaker for clip in clips] == ["anna", "bob"]
    assert str(clips[1].path) == "/abs/b.wav"


def test_paths_are_relative_to_the_table(tmp_path):
    assert corpora.read(str(hugging_face_folder(tmp_path)))[0].path == tmp_path / "x" / "a.wav"


def test_kaldis_segments_cut_a_longer_recording(tmp_path):
    (tmp_path / "wav.scp").write_text("rec1 long.wav\n")
    (tmp_path / "segments").write_text("u1 rec1 1.5 3.0\nu2 rec1 3.0 4.25\n")
    (tmp_path / "text").write_text("u1 hello there\nu2 good bye\n")
    clips = corpora.read(str(tmp_path))
    assert [(clip.text, clip.start_s, clip.end_s) for clip in clips] == [
        ("hello there", 1.5, 3.0),
        ("good bye", 3.0, 4.25),
    ]


def test_a_segment_of_an_unknown_recording_is_refused(tmp_path):
    (tmp_path / "wav.scp").write_text("rec1 long.wav\n")
    (tmp_path / "segments").write_text("u1 other 1.5 3.0\n")
    (tmp_path / "text").write_text("u1 hello there\n")
    with pytest.raises(DataError, match="u1 is not a valid segment"):
        corpora.read(str(tmp_path))


def test_a_command_in_wav_scp_is_refused(tmp_path):
    (tmp_path / "wav.scp").write_text("u1 rm -rf / |\n")
    (tmp_path / "text").write_text("u1 hello\n")
    with pytest.raises(DataError, match="is a command"):
        corpora.read(str(tmp_path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("sound,words\na.wav,hello\n", "no columns for sound and text"),
        ("audio,text\na.wav,\n,hello\n", "clips.csv:3"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, table, message):
    (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        corpora.read(str(tmp_path / "clips.csv"))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(NotFound):
        corpora.read(str(tmp_path / "none.csv"))


def test_a_dataset_without_a_valid_clip_is_refused(tmp_path):
    clips = [Clip(tmp_path / "none.wav", "text"), Clip(tmp_path / "none.wav", "...")]
    with pytest.raises(DataError, match="no clip is left") as error:
        dataset.validate(clips, Reporter())
    assert "the file is missing" in error.value.why
    assert "no text" in error.value.why


# Split


def clips_of(folder, texts_and_speakers):
    return [
        Clip(folder / f"{i}.wav", text, speaker, f"{i}")
        for i, (text, speaker) in enumerate(texts_and_speakers)
    ]


def test_speakers_stay_on_one_side(tmp_path):
    clips = clips_of(tmp_path, [(f"text {i}", who) for who in "abcdef" for i in range(10)])
    train, evaluation = dataset.split(clips, 0.2, 100, 0)
    assert not {c.speaker for c in train} & {c.speaker for c in evaluation}
    assert 6 <= len(evaluation) <= 12


def test_a_vocabulary_of_three_words_is_trained_whole(tmp_path):
    clips = clips_of(tmp_path, [(word, "") for word in ("one", "two", "three") * 20])
    train, evaluation = dataset.split(clips, 0.2, 100, 0)
    assert {c.text for c in train} == {"one", "two", "three"}
    assert len(evaluation) == 12


def test_equal_texts_stay_on_one_side(tmp_path):
    clips = clips_of(tmp_path, [(f"Text {i % 20}", "") for i in range(100)])
    train, evaluation = dataset.split(clips, 0.2, 100, 0)
    assert evaluation
    assert not {c.text for c in train} & {c.text for c in evaluation}


def test_a_clip_on_both_sides_is_refused(tmp_path):
    clips = clips_of(tmp_path, [("text", "")] * 3)
    dataset.check_leakage(clips[:2], clips[2:])
    with pytest.raises(DataError, match="1 clips stand in both train and eval"):
        dataset.check_leakage(clips, clips[2:])


# Training features


def test_the_prompt_and_padding_are_not_learned():
    """Prompt 1 2, texts 5 6 7 and 8, end mark 9."""
    ids, labels = features.pad_targets([[1, 2, 5, 6, 7, 9], [1, 2, 8, 9]], n_prompt=2)
    assert ids.tolist() == [[1, 2, 5, 6, 7], [1, 2, 8, 9, 9]]
    no = features.IGNORED
    assert labels.tolist() == [[no, 5, 6, 7, 9], [no, 8, 9, no, no]]


def test_an_augmented_sound_is_another_one_of_about_its_length():
    sound = np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.5
    first, again, other = (
        features.augment(sound, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert len(first) != len(other)
    assert 0.9 * 16_000 <= len(first) <= 16_000 / 0.9
    assert np.abs(first).max() <= 1
