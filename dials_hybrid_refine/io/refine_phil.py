"""The parameters of dials.hybrid_refine."""

from __future__ import annotations

from dials_hybrid_refine.io.checkpoint import CHECKPOINT_PHIL
from dials_hybrid_refine.io.command_input import INPUT_PHIL
from dials_hybrid_refine.io.data_checks_phil import DATA_CHECKS_PHIL
from dials_hybrid_refine.io.restraints_phil import RESTRAINTS_PHIL

REFINE_PHIL = (
    INPUT_PHIL
    + RESTRAINTS_PHIL
    + CHECKPOINT_PHIL
    + DATA_CHECKS_PHIL
    + """
d_min = None
  .type = float(value_min=0)
  .help = "Reflections with a smaller spacing (Angstrom) are not used."
d_max = None
  .type = float(value_min=0)
  .help = "Reflections with a larger spacing (Angstrom) are not used."
intensity = *profile sum slices
  .type = choice
  .help = "Profile-fitted or summed intensities, each with its own window of rotation, or slices: the"
          "summed intensity of each image, with the window of that image."
reflections {
  min_zeta = 0.05
    .type = float(value_min=0, value_max=1)
    .help = "Reflections whose |zeta| is smaller lie near the rotation axis and are excluded."
  max_window = 4.0
    .type = float(value_min=0)
    .help = "Reflections that take more than this many degrees to pass are excluded."
  min_partiality = 0.99
    .type = float(value_min=0, value_max=1)
    .help = "Reflections of which a smaller part was recorded are excluded."
    .expert_level = 1
}
structure {
  sites = True
    .type = bool
    .help = "Refine the coordinates."
  displacements = True
    .type = bool
    .help = "Refine the displacement parameters."
  occupancies = Auto
    .type = bool
    .help = "Refine the occupancies of all atoms, or of none. Auto: those that a SHELX file refines."
            "Occupancies of atoms on one site keep their sum."
  occupancies_of = None
    .type = strings
    .help = "Labels of atoms whose occupancy is refined beside those."
  adp = *auto isotropic anisotropic
    .type = choice
    .help = "Displacement parameters of all atoms but hydrogen. auto: as in the input."
  hydrogens = *auto riding free generate
    .type = choice
    .help = "Which hydrogen atoms ride on the atom they are bound to. auto: those of which the model file"
            "says so. riding: all that are bound to exactly one atom. free: none. generate: those that"
            "are missing are added where the geometry leaves no doubt, and all ride."
  hydrogen_distances = *neutron xray input
    .type = choice
    .help = "X-H distances of riding hydrogen atoms: of the nuclei, which electrons see; those of SHELXL"
            "for X-rays; or as in the input. What AFIX prescribes is kept."
  data_block = None
    .type = str
    .help = "Name of the data block of a CIF in which several have atoms."
}
thickness {
  model = *neural neural_mean constant per_image wedge cylinder lens
    .type = choice
    .help = "neural: a distribution that a neural network gives for each rotation angle."
            "neural_mean: one thickness for each angle, given by a network."
            "constant: one thickness. per_image: one thickness for each image (or frame_width), with"
            "blocks of rotation no wider than that. wedge, cylinder, lens: a distribution of the"
            "shape's thickness, the same at all angles."
  frame_width = Auto
    .type = float(value_min=0.01)
    .help = "Degrees of rotation with a thickness of their own, with model=per_image. Auto: an image,"
            "which for data of PETS2 is an eighth of the distance of its virtual frames."
    .expert_level = 1
  tilt_correction = False
    .type = bool
    .help = "For constant, wedge, cylinder and lens: the crystal is a plate whose thickness grows as"
            "1/cos(phi - phi_0) as it is tilted. phi_0, where it is normal to the beam, is refined."
  start = Auto
    .type = float(value_min=10, value_max=1e5)
    .help = "Mean thickness (Angstrom) to start from. Auto: the best of a scan. When the atoms are"
            "about right the thickness is scanned again in any case."
  max = Auto
    .type = float(value_min=100, value_max=1e5)
    .help = "Thickest crystal considered (Angstrom). Auto: found by the scan."
  node_distance = 50
    .type = float(value_min=5)
    .help = "Distance (Angstrom) between the thicknesses of the neural distribution, at most; thin"
            "crystals get less."
    .expert_level = 1
  resolution = 10
    .type = float(value_min=0.5)
    .help = "Degrees of rotation over which the neural models can change."
    .expert_level = 1
  smoothness = 3
    .type = float(value_min=1e-6)
    .help = "Weight of the prior that lets the neural models change little, or linearly, with the angle."
    .expert_level = 1
  shape_smoothness = 10000
    .type = float(value_min=1e-6)
    .help = "Weight of the prior that keeps the neural distribution near a normal one at each angle."
    .expert_level = 1
}
orientation {
  model = *smooth per_frame
    .type = choice
    .help = "smooth: a smooth correction along the scan. per_frame: a free one for each frame, for"
            "comparison with programs that do so."
  refine = True
    .type = bool
    .help = "Refine a correction of the crystal's orientation."
  scan = True
    .type = bool
    .help = "Before the refinement, and after its first steps, try the crystal turned, in stretches of 10"
            "degrees by up to half a degree, and go on where that fits clearly better."
    .expert_level = 1
  frame_width = 1
    .type = float(value_min=0.01)
    .help = "Degrees of rotation with an orientation of their own, with model=per_frame."
    .expert_level = 1
  knot_distance = 4
    .type = float(value_min=0.1)
    .help = "Degrees of rotation between the knots of the correction."
    .expert_level = 1
  expected_size = 0.05
    .type = float(value_min=1e-6)
    .help = "Prior standard deviation of the correction in degrees."
    .expert_level = 1
  expected_change = 0.01
    .type = float(value_min=1e-6)
    .help = "Prior standard deviation of its second differences between knots in degrees."
    .expert_level = 1
}
absorption {
  model = *none proportional tabulated
    .type = choice
    .help = "proportional: the imaginary potential is a share of the real one. tabulated: it is that"
            "of thermal diffuse scattering, which the displacement parameters determine (Einstein"
            "model), times a factor."
  ratio = 0.05
    .type = float(value_min=1e-6, value_max=1)
    .help = "That share, from which its refinement starts."
  factor = 1
    .type = float(value_min=1e-3, value_max=1000)
    .help = "That factor, from which its refinement starts."
  refine = True
    .type = bool
    .help = "Refine the share or the factor."
}
mosaicity {
  refine = False
    .type = bool
    .help = "Refine a spread of orientations within the crystal. The calculation takes four times as"
            "long."
  start = 0.05
    .type = float(value_min=1e-4, value_max=5)
    .help = "Its standard deviation to start from, in degrees."
}
scale {
  variation = 0.05
    .type = float(value_min=1e-4)
    .help = "Prior standard deviation of the relative change of scale over one degree."
    .expert_level = 1
}
beams {
  g_max = Auto
    .type = float(value_min=0.1, value_max=12)
    .help = "Beams up to this |g| (1/Angstrom). Auto: that of the data, or more where accuracy"
            "asks for it."
  s_max = Auto
    .type = float(value_min=1e-4, value_max=1)
    .help = "Beams within this distance of the Ewald sphere (1/Angstrom) take part. Auto: 0.012, or"
            "more where accuracy asks for it."
  tilt_step = Auto
    .type = float(value_min=1e-3)
    .help = "Degrees between the orientations that sample rocking curves. Auto: from resolution"
            "and thickness, or less where accuracy asks for it."
  accuracy = 0.02
    .type = float(value_min=1e-6)
    .help = "Automatic limits are raised until raising them further changes calculated amplitudes by"
            "less than this (sum |F' - F| / sum F', seen on parts of the scan)."
  tilts_per_window = None
    .type = int(value_min=2)
    .help = "For data recorded (or simulated by another program) in steps: each intensity is the sum"
            "over this number of orientations, evenly spaced from the first to the last angle of its"
            "frame. Intensities of continuous rotation, which are integrals: None."
    .expert_level = 1
}
weighting {
  instability = 0.03
    .type = float(value_min=0, value_max=1)
    .help = "u in the variance sigma^2 + (u I)^2 of an intensity."
  outlier_threshold = 4.0
    .type = float(value_min=1)
    .help = "Reflections are rejected whose residual exceeds this many robust standard deviations."
  max_rejected = 0.05
    .type = float(value_min=0, value_max=0.5)
    .help = "Largest share of reflections that may be rejected."
}
held_out {
  fraction = 0.05
    .type = float(value_min=0, value_max=0.5)
    .help = "Share of the reflections, with all their symmetry mates, that is never refined"
            "against and shows whether the fit is honest."
  by = *reflections frames
    .type = choice
    .help = "reflections: unique ones, which shows whether the structure is overfitted. frames: all"
            "in stretches of the scan, which shows whether thickness and orientation are."
  frame_width = 2.0
    .type = float(value_min=0.1)
    .help = "Degrees of rotation in such a stretch."
    .expert_level = 1
}
frames {
  semi_angle = Auto
    .type = float(value_min=0.01)
    .help = "Half the range (degrees) of the virtual frames for which R factors are given as other"
            "programs do. Auto: that of the PETS2 file, or 1."
  step = Auto
    .type = float(value_min=0.01)
    .help = "Degrees between virtual frames. Auto: as in the PETS2 file, or 1."
  rsg = 0.66
    .type = float(value_min=1e-3, value_max=1)
    .help = "A reflection counts in a frame if its excitation error in the middle is less than this"
            "share of the most by which it can change until the end."
  dsg = 0.0015
    .type = float(value_min=0)
    .help = "A reflection counts in a frame if its excitation error can change by that much"
            "(1/Angstrom) more than is needed to reach zero."
}
refinement {
  max_cycles = 10
    .type = int(value_min=1)
    .help = "Most cycles with the full calculation."
  max_steps = 20
    .type = int(value_min=1)
    .help = "Most steps in a cycle."
    .expert_level = 1
  coarse_steps = 6
    .type = int(value_min=1)
    .help = "Most steps with the coarse calculation, after the thickness was scanned again. Its"
            "own settings are fixed; beams.* are those of the full calculation."
    .expert_level = 1
  tolerance = 2e-3
    .type = float(value_min=1e-9)
    .help = "A cycle ends when a step lowers the loss by less than this share of it."
    .expert_level = 1
}
reindexing {
  test = True
    .type = bool
    .help = "Try the other settings of the data that the lattice allows, and stop if the starting"
            "structure clearly fits in one of them. Of several crystals each is reindexed to the setting"
            "that fits."
}
crystals {
  exclude_bad = False
    .type = bool
    .help = "Of several crystals, leave out those that cannot be read, do not suit the structure, or fit"
            "much worse than the others. False: stop at files that cannot be used, and only report"
            "what does not fit."
}
dataset_selection {
  use_datasets = None
    .type = ints(value_min=0)
    .help = "Numbers (from 0, in the order of the files) of the experiments to refine. None: all."
  exclude_datasets = None
    .type = ints(value_min=0)
    .help = "Numbers of the experiments to leave out."
}
absolute_structure {
  test = Auto
    .type = bool
    .help = "Refine the inverse of the structure too, and compare. Auto: when the refinement has"
            "converged, if the space group has no centre of symmetry."
  apply = False
    .type = bool
    .help = "Where the inverse fits clearly better (z-score below -3) it becomes the result."
}
convergence = False
  .type = bool
  .help = "When refined, raise g_max, s_max, the number of tilts and the precision in turn, and list"
          "how much the calculated intensities move."
difference_map = True
  .type = bool
  .help = "When refined, calculate a map of the potential that the model lacks, and list its peaks."
seed = 0
  .type = int(value_min=0, value_max=4294967295)
  .help = "Seed of the held-out selection and of the network. Same seed, same result."
precision = *single double
  .type = choice
  .help = "Precision of the simulation; single has an error of about 1e-6 of the incident beam."
  .expert_level = 1
device = *auto cpu cuda
  .type = choice
  .help = "Where to compute. auto: a CUDA device if there is one."
memory = 2.0
  .type = float(value_min=0.5)
  .help = "Memory (GB) that the program aims to stay within: what does not fit is computed again when"
          "needed."
  .expert_level = 1
nproc = Auto
  .type = int(value_min=1, value_max=1024)
  .help = "Number of threads. Auto: as many as there are processors."
  .expert_level = 1
cif {
  reflections = *none measured merged
    .type = choice
    .help = "Reflections in the CIF. measured: each intensity with the calculated one. merged: unique"
            "reflections freed of dynamical effects, as in output.hkl, F in volts."
}
output {
  structure = hybrid_refined.cif
    .type = path
    .help = "The refined structure. None: not written; so for all output files."
  experiments = hybrid_refined.expt
    .type = path
    .help = "The experiments with the refined orientation."
  reflections = hybrid_refined.refl
    .type = path
    .help = "The reflections with calculated intensity, scale, weight and status."
  res = None
    .type = path
    .help = "The refined model for SHELX and Olex2, with electron scattering factors."
  hkl = None
    .type = path
    .help = "Merged intensities for SHELX (HKLF 4): |Fc|^2 Io/Ic, freed of dynamical effects as far"
            "as the model explains them."
  mtz = None
    .type = path
    .help = "The same as MTZ file: IOBS, FOBS, FC, PHIC, and FreeR_flag (1: held out)."
  json = dials.hybrid_refine.json
    .type = path
    .help = "Machine-readable summary."
  map = None
    .type = path
    .help = "The difference map, as CCP4 map in e/Angstrom."
  map_coefficients = None
    .type = path
    .help = "Coefficients of the difference map, as MTZ."
  html = dials.hybrid_refine.html
    .type = path
    .help = "A page with the result, its plots and tables, that opens without a network."
  plots = None
    .type = path
    .help = "A folder for the plots as files; it is made if need be. It must not be a file."
  plots_format = *png svg pdf
    .type = choice
    .help = "Format of the plots in that folder."
    .expert_level = 1
  plots_json = None
    .type = path
    .help = "The data and layouts of the plots as JSON for plotly, by name, as dials.report writes it."
  log = dials.hybrid_refine.log
    .type = path
}
"""
)
