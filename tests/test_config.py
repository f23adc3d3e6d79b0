"""Merge order, strictness and identity of configurations."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from promptclip import plugins
from promptclip.config import Builder, build_cfg, config_difference, config_hash, configs_dir
from promptclip.errors import UserError
from promptclip.merge import closest

CONFIGS = configs_dir()
DATASET = CONFIGS / "datasets" / "imagenet.yaml"
METHODS = sorted((CONFIGS / "trainers").glob("*/*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def build(*overrides, method="", trainer="CoOp", dataset=DATASET, **kwargs):
    return build_cfg(trainer, dataset, method, overrides=overrides, **kwargs)


def test_each_layer_has_the_last_word_over_those_before(tmp_path):
    dataset = write(
        tmp_path / "d.yaml",
        """
        DATASET: {NAME: ImageNet, NUM_SHOTS: 2}
        INPUT: {SIZE: [48, 48]}
        OPTIM: {LR: 0.5, MAX_EPOCH: 3, MOMENTUM: 0.1}
        """,
    )
    method = write(tmp_path / "m.yaml", "OPTIM: {LR: 0.6, MAX_EPOCH: 4}")
    cfg = build("OPTIM.LR", "0.7", dataset=dataset, method=method)
    assert cfg.OPTIM.LR == 0.7  # the command line
    assert cfg.OPTIM.MAX_EPOCH == 4  # the method
    assert cfg.OPTIM.MOMENTUM == 0.1  # the data set
    assert cfg.INPUT.SIZE == (48, 48)
    assert cfg.OPTIM.LR_SCHEDULER == "cosine"  # base.yaml
    assert cfg.OPTIM.WEIGHT_DECAY == 5e-4  # Dassl
    assert cfg.TRAINER.COOP.N_CTX == 16  # the method's dataclass
    assert cfg.DATASET.SUBSAMPLE_CLASSES == "all"  # promptclip


CONDITIONAL = """
    OPTIM: {MAX_EPOCH: 200}
    PER_SHOTS:
      1: {OPTIM: {MAX_EPOCH: 50}}
    PER_DATASET:
      ImageNet: {OPTIM: {LR: 2}}
"""


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 200), (-1, 200)])
def test_a_section_per_shots_holds_for_these_shots(tmp_path, shots, epochs):
    method = write(tmp_path / "m.yaml", CONDITIONAL)
    cfg = build("DATASET.NUM_SHOTS", str(shots), method=method)
    assert cfg.OPTIM.MAX_EPOCH == epochs
    assert cfg.OPTIM.LR == 2.0


def test_a_section_per_data_set_holds_for_it_and_the_command_line_still_wins(tmp_path):
    method = write(tmp_path / "m.yaml", CONDITIONAL)
    other = write(tmp_path / "d.yaml", "DATASET: {NAME: Emoji}")
    assert build(method=method, dataset=other).OPTIM.LR == 0.002
    cfg = build("OPTIM.LR", "7", "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "3", method=method)
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH) == (7.0, 3)


def test_a_data_set_has_sections_for_methods_files_of_some_name(tmp_path):
    dataset = write(
        tmp_path / "d.yaml",
        """
        DATASET: {NAME: ImageNet}
        OPTIM: {LR: 0.5, MAX_EPOCH: 5, MOMENTUM: 0.5}
        PER_CFG:
          tiny: {OPTIM: {LR: 0.6, MAX_EPOCH: 6}}
          other: {OPTIM: {MOMENTUM: 0.7}}
        """,
    )
    tiny, m = (write(tmp_path / f"{n}.yaml", "OPTIM: {MAX_EPOCH: 9}") for n in ("tiny", "m"))
    found = [build(dataset=dataset, method=method).OPTIM for method in (tiny, m)]
    assert [(o.LR, o.MAX_EPOCH, o.MOMENTUM) for o in found] == [(0.6, 9, 0.5), (0.5, 9, 0.5)]
    write(dataset, "DATASET: {NAME: ImageNet}\nPER_CFG: {other: {OPTIM: {LT: 1}}}")
    with pytest.raises(UserError, match="d.yaml, PER_CFG other: unknown key OPTIM.LT"):
        build(dataset=dataset, method=m)
    write(dataset, "PER_CFG: [tiny]")
    with pytest.raises(UserError, match="d.yaml: PER_CFG holds a section for each"):
        build(dataset=dataset, method=m)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("PER_SHOTS: {9: {OPTIM: {LT: 1}}}", r"PER_SHOTS 9: unknown key OPTIM.LT"),
        ("PER_SHOTS: {few: {}}", r"PER_SHOTS few: DATASET.NUM_SHOTS must be a whole number"),
        ("PER_DATASET: {Emoji: {A: 1}}", r"PER_DATASET Emoji: unknown key A"),
        ("PER_DATASET: {Emojy: {}}", r"PER_DATASET Emojy: unknown dataset 'Emojy'"),
    ],
)
def test_a_mistake_is_found_in_a_section_that_does_not_apply(tmp_path, section, message):
    with pytest.raises(UserError, match=f"m.yaml, {message}"):
        build(method=write(tmp_path / "m.yaml", section))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["OPTIM.LT", "1"], r"command line: unknown key OPTIM.LT, did you mean OPTIM.LR\?"),
        (
            ["TRAINER.DAPT.VIS_BTEA", "1"],
            r"unknown key TRAINER.DAPT.VIS_BTEA.*TRAINER.DAPT.VIS_BETA",
        ),
        (["trainer.dapt.vis_beta", "1"], r"unknown key trainer.*did you mean TRAINER"),
        (["OPTIM", "1"], r"OPTIM is a section of keys, got '1'"),
        (["OPTIM.LR.X", "1"], r"OPTIM.LR must be a number.*got \{'X': '1'\}"),
        (["OPTIM.LR"], r"KEY VALUE pairs; OPTIM.LR has no value"),
        (["OPTIM.LR", "1", "--seed", "1"], r"--seed stands after a KEY VALUE pair"),
        (["OPTIM.LR", "fast"], r"OPTIM.LR must be a number, such as 0.002; got 'fast'"),
        (["OPTIM.LR", "-1"], r"OPTIM.LR must be between 0 and 1e\+06; got -1.0"),
        (["OPTIM.LR", "1e999"], r"OPTIM.LR must be between"),
        (["OPTIM.MAX_EPOCH", "2.5"], r"OPTIM.MAX_EPOCH must be a whole number.*got 2.5"),
        (["OPTIM.MAX_EPOCH", "0"], r"OPTIM.MAX_EPOCH must be at least 1; got 0"),
        (["OPTIM.NAME", "sdg"], r"OPTIM.NAME must be one of .*; got 'sdg', did you mean sgd\?"),
        (["USE_CUDA", "maybe"], r"USE_CUDA must be True or False"),
        (["INPUT.SIZE", "224"], r"INPUT.SIZE must be a tuple, such as \(224, 224\); got 224"),
        (["INPUT.SIZE", "(224, 'x')"], r"INPUT.SIZE must be a whole number"),
        (["INPUT.SIZE", "(224, 0)"], r"INPUT.SIZE must be between 1 and 4096; got \(224, 0\)"),
        (["DATASET.SUBSAMPLE_CLASSES", "bass"], r"one of all, base, new.*did you mean base\?"),
        (["DATASET.NAME", "ImageNot"], r"unknown dataset 'ImageNot'.*ImageNet"),
        (["TRAINER.COOP.PREC", "half"], r"TRAINER.COOP.PREC must be .*got 'half'"),
        (["TRAINER.COOP.N_CTX", "0"], r"TRAINER.COOP.N_CTX must be"),
    ],
)
def test_bad_input_is_named_with_what_was_expected(overrides, message):
    with pytest.raises(UserError, match=message):
        build(*overrides)


def test_an_unknown_method_and_missing_or_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"unknown method 'CoOpp'; did you mean 'CoOp'"):
        build(trainer="CoOpp")
    with pytest.raises(
        UserError, match=r"no configuration file .*imagenat.yaml, did you mean imagenet"
    ):
        build(dataset=DATASET.with_name("imagenat.yaml"))
    with pytest.raises(UserError, match=r"m.yaml is not valid yaml: .*line 1"):
        build(method=write(tmp_path / "m.yaml", "OPTIM: {LR: ["))
    with pytest.raises(UserError, match=r"m.yaml must hold KEY: VALUE lines, got a list"):
        build(method=write(tmp_path / "m.yaml", "- 1"))
    with pytest.raises(UserError, match=r"m.yaml: unknown key !!python"):
        build(method=write(tmp_path / "m.yaml", "'!!python': 1"))
    with pytest.raises(UserError, match=r"not valid yaml: .*python/object"):
        build(method=write(tmp_path / "m.yaml", "SEED: !!python/object/apply:os.getcwd []"))


def test_seed_zero_is_a_seed_and_a_configured_seed_holds_unless_told_otherwise(tmp_path):
    method = write(tmp_path / "m.yaml", "SEED: 5")
    assert build(method=method).SEED == 5
    assert build(method=method, seed=0).SEED == 0
    assert build(method=method, seed=-1).SEED == -1
    assert build().SEED == -1


def test_text_stays_text_and_numbers_are_read_from_text(tmp_path):
    cfg = build("TRAINER.COOP.CTX_INIT", "17", "OPTIM.WARMUP_CONS_LR", "1e-4")
    assert cfg.TRAINER.COOP.CTX_INIT == "17"
    assert build("TRAINER.COOP.CTX_INIT", '"a photo"').TRAINER.COOP.CTX_INIT == "a photo"
    assert cfg.OPTIM.WARMUP_CONS_LR == 1e-4
    method = write(tmp_path / "m.yaml", "INPUT:\n  SIZE: (32, 32)\nOPTIM:\n  WARMUP_CONS_LR: 1e-3")
    cfg = build(method=method)
    assert cfg.INPUT.SIZE == (32, 32)
    assert cfg.OPTIM.WARMUP_CONS_LR == 1e-3
    assert type(build("OPTIM.LR", "2").OPTIM.LR) is float


def test_a_configuration_is_frozen_and_survives_being_written_and_read(tmp_path):
    cfg = build("OPTIM.LR", "0.1", seed=3)
    with pytest.raises(AttributeError):
        cfg.SEED = 4
    saved = write(tmp_path / "saved.yaml", cfg.dump())
    assert build_cfg("", "", saved) == cfg


def test_configurations_of_one_builder_share_nothing_that_can_be_changed(tmp_path):
    method = write(tmp_path / "m.yaml", CONDITIONAL)
    build = Builder()

    def built(*overrides):
        return build("CoOp", DATASET, method, overrides=overrides)

    one, few, plain = built("DATASET.NUM_SHOTS", 1), built("OPTIM.LR", 7), built()
    assert [cfg.OPTIM.MAX_EPOCH for cfg in (one, few, plain)] == [50, 200, 200]
    assert [cfg.OPTIM.LR for cfg in (one, few, plain)] == [2, 7, 2]
    one.INPUT.PIXEL_MEAN.append(9)
    assert len(plain.INPUT.PIXEL_MEAN) == len(built().INPUT.PIXEL_MEAN) == 3
    write(method, "OPTIM: {MAX_EPOCH: 3}")  # a file counts as it was when it was first read
    assert built() == plain
    assert build_cfg("CoOp", DATASET, method).OPTIM.MAX_EPOCH == 3
    assert set(build.files) == {
        *map(str, (CONFIGS / "trainers" / "base.yaml", DATASET, method)),
    }


def test_the_hash_covers_what_can_change_a_number_and_nothing_else():
    cfg = build(seed=1)
    same = build(
        "TRAIN.PRINT_FREQ", "7", "TRAINER.DAPT.VIS_BETA", "9", seed=1, root="x", output_dir="y"
    )
    assert config_hash(cfg) == config_hash(same)
    assert config_difference(cfg, same) == []
    other = build("OPTIM.LR", "1", seed=1)
    assert config_hash(cfg) != config_hash(other)
    assert config_difference(cfg, other) == ["OPTIM.LR: 0.002, not 1.0"]
    assert config_hash(cfg) != config_hash(build(seed=2))
    assert config_hash(cfg) != config_hash(build("TRAINER.COOP.N_CTX", "4", seed=1))
    assert config_hash(cfg) == config_hash(yaml.safe_load(cfg.dump()))


@pytest.mark.parametrize("file", METHODS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_yaml_loads_and_its_header_says_how_to_use_it(file):
    cfg = build_cfg(file.parent.name, DATASET, file, overrides=["DATASET.NUM_SHOTS", 16])
    assert file.parent.name == cfg.TRAINER.NAME
    header = file.read_text()
    assert "\n# bash scripts/" in header or "\n# CFG=" in header
    assert "Expected time" in header


# The fact sheet of the paper's repository: LR, beta_v, beta_t.
DAPT_VALUES = {
    "ImageNet": (2.0, 0.01, 0.01),
    "Caltech101": (0.2, 10, 0.01),
    "OxfordPets": (0.02, 10, 0.1),
    "StanfordCars": (0.002, 100, 0.1),
    "OxfordFlowers": (0.002, 10, 0.01),
    "Food101": (20.0, 10, 0.01),
    "FGVCAircraft": (2.0, 100, 0.01),
    "SUN397": (20.0, 100, 0.01),
    "DescribableTextures": (20.0, 100, 0.01),
    "EuroSAT": (20.0, 100, 10.0),
    "UCF101": (20.0, 0.1, 0.1),
}


def published(dataset, shots):
    overrides = ["DATASET.NAME", dataset, "DATASET.NUM_SHOTS", shots]
    return build_cfg("dapt", "", CONFIGS / "trainers/DAPT/vit_b16.yaml", overrides=overrides)


@pytest.mark.parametrize("dataset", DAPT_VALUES)
def test_dapt_has_the_published_values_of_every_data_set(dataset):
    cfg = published(dataset, 16)
    dapt = cfg.TRAINER.DAPT
    assert (cfg.OPTIM.LR, dapt.VIS_BETA, dapt.TXT_BETA) == DAPT_VALUES[dataset]
    assert cfg.OPTIM.MAX_EPOCH == (50 if dataset == "ImageNet" else 200)


@pytest.mark.parametrize(("shots", "epochs"), {1: 50, 2: 100, 4: 100, 8: 200}.items())
def test_dapt_has_the_published_epochs(shots, epochs):
    assert published("UCF101", shots).OPTIM.MAX_EPOCH == epochs
    assert published("ImageNet", shots).OPTIM.MAX_EPOCH == 50


def test_closest_ignores_case():
    assert closest("imagenat", ["ImageNet", "Emoji"]) == "ImageNet"
    assert closest("zzz", ["ImageNet"]) == ""


@pytest.mark.parametrize("name", ["emoji_openmoji", "EmojiOpenMoji", "emoji-openmoji"])
def test_names_of_data_sets_are_found_however_they_are_spelt(name):
    assert plugins.dataset_name(name) == "EmojiOpenMoji"
