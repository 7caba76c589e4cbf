"""Comparing the sound of two clips."""

import pytest

from tests.clips import X264, Clip, Sound, write_clip
from vidinvert.errors import DecodeError
from vidinvert.media import compare_sound, probe

PLAIN = Clip(options=X264, sounds=(Sound(),))


def info(directory, clip, name):
    return probe(write_clip(directory, clip, name=name))


@pytest.mark.promise(3)
def test_a_copy_has_all_packets_at_their_times(tmp_path):
    source, copy = info(tmp_path, PLAIN, "a"), info(tmp_path, PLAIN, "b")
    compared = compare_sound(source, copy, frames=range(24))
    assert compared.packets > 10
    assert compared.same_packets == compared.packets
    assert compared.largest_shift_seconds == 0.0
    assert compared.tracks == (1, 1)


@pytest.mark.promise(3)
def test_a_known_shift_against_the_pictures_is_measured(tmp_path):
    source = info(tmp_path, PLAIN, "a")
    late = Clip(options=X264, sounds=(Sound(),), ticks=tuple(range(5, 29)))  # pictures 0.2 s later
    compared = compare_sound(source, info(tmp_path, late, "b"), frames=range(24))
    assert compared.same_packets > 0
    assert compared.largest_shift_seconds == pytest.approx(0.2, abs=1e-3)


@pytest.mark.promise(3)
def test_other_sound_shares_no_packet(tmp_path):
    source = info(tmp_path, PLAIN, "a")
    other = info(tmp_path, Clip(options=X264, sounds=(Sound(hertz=700.0),)), "b")
    compared = compare_sound(source, other, frames=range(24))
    assert compared.same_packets < 0.2 * compared.packets


@pytest.mark.promise(3)
def test_only_the_sound_of_the_chosen_frames_counts(tmp_path):
    source = info(tmp_path, PLAIN, "a")
    whole = compare_sound(source, source, frames=range(24)).packets
    part = compare_sound(source, source, frames=range(12)).packets
    assert part == pytest.approx(whole / 2, abs=2)


@pytest.mark.promise(3)
def test_a_lost_track_has_lost_all_its_packets(tmp_path):
    source = info(tmp_path, PLAIN, "a")
    mute = info(tmp_path, Clip(options=X264), "b")
    compared = compare_sound(source, mute, frames=range(24))
    assert compared.tracks == (1, 0)
    assert (compared.same_packets, compared.largest_shift_seconds) == (0, None)
    assert compare_sound(mute, mute, frames=range(24)).packets == 0


@pytest.mark.promise(3)
def test_a_file_that_breaks_off_is_refused(tmp_path, monkeypatch):
    source = info(tmp_path, PLAIN, "a")
    monkeypatch.setattr("vidinvert.media.sound.open_input", _breaking_input)
    with pytest.raises(DecodeError, match=r"The sound of .*a\.mp4 is damaged"):
        compare_sound(source, source, frames=range(24))


def _breaking_input(path):
    import av

    class Stream:
        index = 0

    class Container:
        class streams:
            audio = (Stream(),)

        def demux(self, *streams):
            raise av.error.InvalidDataError(1, "broken", str(path))

        def __enter__(self):
            return self

        def __exit__(self, *reason):
            return False

    return Container()
