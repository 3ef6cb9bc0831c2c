"""Which virtual frames there are, and which reflections belong to them.

The crystal is cubic with a* = 0.1 1/Angstrom, turns about x, beam along -z, K = 50 1/Angstrom:
S of (0 5 0) is 0.5 sin(phi) - 0.25 / 100, so that it passes at asin(0.005) = 0.2865 degrees, and
dS of a semi-angle of one degree is 0.5 radians(1) = 0.0087266 1/Angstrom.
"""

from __future__ import annotations

import numpy as np
import pytest
from examples import make_observations
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.refinement.frames import (
    FrameFilter,
    Frames,
    choose_frames,
    frame_members,
    regular_frames,
)

PASSAGE = float(np.degrees(np.arcsin(0.005)))


def scan(setting: Rotation | None = None) -> ScanGeometry:
    setting = setting or Rotation.identity()
    return ScanGeometry(
        wavelength=0.02,
        beam_direction=np.array([0.0, 0.0, -1.0]),
        rotation_axis=np.array([1.0, 0.0, 0.0]),
        phi_points=np.array([-10.0, 190.0]),
        crystal_settings=np.repeat(0.1 * np.eye(3)[None], 2, axis=0),
        setting_rotations=np.repeat(setting.as_matrix()[None], 2, axis=0),
        image_width=1.0,
    )


def frames_at(*centres, semi_angle=1.0, apart=False):
    m = len(centres)
    return Frames(
        np.zeros(m, dtype=np.int64),
        np.array(centres, dtype=float),
        np.full(m, semi_angle),
        np.full(m, apart),
    )


def members(frames, hkl=(0, 5, 0), phi=PASSAGE, limits=None, setting=None, half=0.5):
    phi = np.atleast_1d(phi)
    observations = make_observations(hkl, phi, phi - half, phi + half)
    found = frame_members(frames, [scan(setting)], observations, limits or FrameFilter())
    return [rows.tolist() for rows in found]


@pytest.mark.parametrize("limit, inside", [(0.2864, False), (0.2866, True)])
def test_relative_limit(limit, inside):
    """|S| / dS = 0.0025 / 0.0087266 = 0.28648 in a frame in the middle of which phi is 0."""
    assert members(frames_at(0.0), limits=FrameFilter(limit, 0.0)) == [[0] if inside else []]


@pytest.mark.parametrize("limit, inside", [(0.00622, True), (0.00623, False)])
def test_absolute_limit(limit, inside):
    """dS - |S| = 0.0062266 1/Angstrom."""
    assert members(frames_at(0.0), limits=FrameFilter(1.0, limit)) == [[0] if inside else []]


def test_the_lever_arm_is_from_the_rotation_axis():
    """(12 5 0): S = -0.0169; from the axis dS = 0.0087, from the beam it would be 0.0227."""
    assert members(frames_at(0.0), hkl=(12, 5, 0), phi=2.0, limits=FrameFilter(1.0, 0.0)) == [[]]
    # (1 5 0) has the same lever arm as (0 5 0): S = -0.0026
    limits = FrameFilter(0.299, 0.0)
    assert members(frames_at(0.0), hkl=(1, 5, 0), limits=limits) == [[0]]
    assert members(frames_at(0.0), hkl=(1, 5, 0), limits=FrameFilter(0.297, 0.0)) == [[]]


def test_the_axis_is_where_the_goniometer_has_it():
    """Turned by 90 degrees about the beam; from the datum the lever arm would be zero."""
    turned = Rotation.from_euler("z", 90, degrees=True)
    for limit, expected in ((0.2864, [[]]), (0.2866, [[0]])):
        assert members(frames_at(0.0), limits=FrameFilter(limit, 0.0), setting=turned) == expected


def test_a_reflection_counts_in_each_overlapping_frame():
    """Centres less than 0.66 degrees from the passage at 0.2865 degrees."""
    found = members(frames_at(-0.5, 0.0, 0.5, 1.0), limits=FrameFilter(0.66, 0.0))
    assert found == [[], [0], [0], []]


def test_frames_without_reflections_are_empty():
    assert members(frames_at(-7.0, 7.0)) == [[], []]


def test_the_two_passages_of_a_turn_are_told_apart():
    """At 180 degrees S of (0 5 0) is as at 0, but it goes out of the sphere instead of in."""
    hkl, phi = [(0, 5, 0), (0, 5, 0)], [PASSAGE, 180 - PASSAGE]
    assert members(frames_at(0.0, 180.0), hkl, phi) == [[0], [1]]


def test_an_intensity_of_a_range_belongs_to_that_frame_alone():
    """Windows -1..1 and -0.5..1.5: one observation in each, although both frames overlap."""
    hkl, phi = [(0, 5, 0), (0, 5, 0)], [0.0, 0.5]
    limits = FrameFilter(0.66, 0.0)
    assert members(frames_at(0.0, 0.5, apart=True), hkl, phi, limits, half=1.0) == [[0], [1]]
    both = [[0, 1], [0, 1]]
    assert members(frames_at(0.0, 0.5), hkl, phi, limits, half=1.0) == both


def test_experiments_keep_to_themselves():
    observations = make_observations([(0, 5, 0)] * 2, [PASSAGE] * 2, [0.0] * 2, [1.0] * 2)
    observations.experiment[1] = 1
    frames = Frames(np.array([1, 0]), np.zeros(2), np.ones(2), np.zeros(2, dtype=bool))
    found = frame_members(frames, [scan(), scan()], observations, FrameFilter())
    assert [rows.tolist() for rows in found] == [[1], [0]]


def test_regular_frames_fill_the_scan():
    """A hundred degrees hold 99 frames of semi-angle 1, step 1; a short scan holds one."""
    frames = regular_frames([(-50.0, 50.0), (3.0, 4.0)], 1.0, 1.0)
    assert_allclose(frames.phi, [*np.arange(-49.0, 50.0), 3.5])
    assert_array_equal(frames.experiment, [0] * 99 + [1])
    assert (frames.typical_semi_angle, frames.typical_step) == (1.0, 1.0)
    # six frames from 0.45 to 9.95: what is left over is divided between both ends
    assert_allclose(regular_frames([(0.0, 10.4)], 1.0, 1.5).phi, 1.45 + 1.5 * np.arange(6))


def test_frames_of_the_data_or_chosen_ones():
    given = frames_at(0.0, 2.0, 4.1, semi_angle=1.5)
    ranges = [(-2.0, 6.0)]
    assert choose_frames(given, ranges) is given
    wider = choose_frames(given, ranges, semi_angle=2.0)
    assert_array_equal(wider.phi, given.phi)
    assert_array_equal(wider.semi_angle, [2.0] * 3)
    stepped = choose_frames(given, ranges, step=1.0)
    assert_allclose(stepped.phi, np.arange(-0.5, 4.6))
    assert_array_equal(stepped.semi_angle, [1.5] * 6)
    assert len(choose_frames(None, ranges)) == 7
    assert len(choose_frames(None, ranges, semi_angle=2.0, step=2.0)) == 3


@pytest.mark.parametrize("name", ["semi_angle", "step"])
def test_frames_that_intensities_belong_to_cannot_be_chosen(name):
    with pytest.raises(ValueError, match=f"frames.{name} cannot be chosen.*leave it at Auto"):
        choose_frames(frames_at(0.0, 3.0, apart=True), [(-1.0, 4.0)], **{name: 1.0})
